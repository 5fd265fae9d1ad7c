// Package imagetest is for the tests of image files: it creates images (image.go), and changes
// them in ways in which no daemon does (edit.go). Tests alone import it.
package imagetest
