package main

import (
	"bytes"
	"fmt"
	"html"
	"math"

	"github.com/zvhost/zvhost/internal/bench"
)

// The measures of the plot, in pixels.
const (
	rowHeight   = 22
	labelWidth  = 330
	panelWidth  = 250
	panelGap    = 30
	headHeight  = 70
	footHeight  = 40
	margin      = 16
	colourGood  = "#1f6fb4"
	colourBad   = "#c8551b"
	colourGrid  = "#dddddd"
	colourText  = "#222222"
	colourFaint = "#777777"
)

// A panel is one of the ratios, side by side.
type panel struct {
	title, better string
	of            metric
	lessIsBetter  bool
	low, high     float64 // ends of the axis, powers of two
}

// x is where a ratio is in the panel, on a logarithmic axis.
func (p *panel) x(v float64) float64 {
	v = min(max(v, p.low), p.high)
	return panelWidth * math.Log2(v/p.low) / math.Log2(p.high/p.low)
}

// drawPlot draws the ratios of all comparisons as an SVG: a row each, with the
// median as a dot and the least and the most as a line, in three panels.
func drawPlot(all []*comparison) []byte {
	panels := []panel{
		{title: "requests per second", better: "right is better", of: iops},
		{title: "p99.9 latency", better: "left is better", of: tail, lessIsBetter: true},
		{title: "server's processor time", better: "left is better", of: cpuNS, lessIsBetter: true},
	}
	for i := range panels {
		panels[i].scale(all)
	}
	rows := 0
	for i, c := range all {
		if i == 0 || group(c) != group(all[i-1]) {
			rows++
		}
		rows++
	}
	width := margin*2 + labelWidth + len(panels)*panelWidth + (len(panels)-1)*panelGap
	height := headHeight + rows*rowHeight + footHeight
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="DejaVu Sans, Verdana, sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	text(&b, margin, 26, "start", colourText, 15, "Ratios: zvhost to the other side, median and range of the pairs")
	bottom := float64(headHeight + rows*rowHeight)
	for i := range panels {
		panels[i].frame(&b, left(i), bottom)
	}
	row := 0
	for i, c := range all {
		if i == 0 || group(c) != group(all[i-1]) {
			text(&b, margin, rowY(row)+4, "start", colourText, 13, group(c))
			row++
		}
		y := rowY(row)
		text(&b, margin+12, y+4, "start", colourText, 12, label(c))
		for i := range panels {
			panels[i].dot(&b, left(i), y, c)
		}
		row++
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func left(panel int) float64 {
	return float64(margin + labelWidth + panel*(panelWidth+panelGap))
}

func rowY(row int) float64 { return headHeight + (float64(row)+0.5)*rowHeight }

// group is the heading of a group of rows.
func group(c *comparison) string {
	if c.Task.RW == bench.Append {
		return string(c.Task.Storage) + ": appends, to random writes"
	}
	return string(c.Task.Storage) + ": to " + c.B
}

// label is the rest of a row's name.
func label(c *comparison) string {
	name := c.Task.name()[len(c.Task.Storage)+2:]
	if c.B == (holes{}).name() {
		name += ", to holes"
	}
	return name
}

// scale makes the axis long enough for all that is drawn, and never shorter than
// from a half to two.
func (p *panel) scale(all []*comparison) {
	p.low, p.high = 0.5, 2
	for _, c := range all {
		r := c.ratio(p.of)
		for r.least > 0 && r.least < p.low && p.low > 1.0/64 {
			p.low /= 2
		}
		for r.most > p.high && p.high < 64 {
			p.high *= 2
		}
	}
}

// frame draws the axis, its lines, and what it is.
func (p *panel) frame(b *bytes.Buffer, x0, bottom float64) {
	text(b, x0+panelWidth/2, 46, "middle", colourText, 12, p.title)
	text(b, x0+panelWidth/2, 61, "middle", colourFaint, 11, p.better)
	steps := math.Log2(p.high / p.low)
	for v := p.low; v <= p.high; v *= 2 {
		x, colour, stroke := x0+p.x(v), colourGrid, 1.0
		if v == 1 {
			colour, stroke = colourFaint, 1.5
		}
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`+"\n", x, headHeight, x, bottom, colour, stroke)
		// Of a long axis every other number is enough.
		if steps <= 7 || int(math.Round(math.Log2(v)))%2 == 0 {
			name := fmt.Sprintf("%g", v)
			if v < 1 {
				name = fmt.Sprintf("1/%g", 1/v)
			}
			text(b, x, bottom+16, "middle", colourText, 11, name)
		}
	}
}

// dot draws one ratio.
func (p *panel) dot(b *bytes.Buffer, x0, y float64, c *comparison) {
	r := c.ratio(p.of)
	if r.median <= 0 {
		return // a side without a server
	}
	colour := colourGood
	if (r.median < 1) != p.lessIsBetter && r.median != 1 {
		colour = colourBad
	}
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="2"/>`+"\n", x0+p.x(r.least), y, x0+p.x(r.most), y, colour)
	fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4.5" fill="%s"/>`+"\n", x0+p.x(r.median), y, colour)
}

// text draws a line of words.
func text(b *bytes.Buffer, x, y float64, anchor, colour string, size int, words string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" font-size="%d">%s</text>`+"\n", x, y, anchor, colour, size, html.EscapeString(words))
}
