package vhostuser

import (
	"reflect"
	"testing"
)

// A session's state must be able to lie in shared memory, for another process to
// go on from: nothing in it may refer to this one.
func TestStateIsPlainData(t *testing.T) {
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		switch k := typ.Kind(); k {
		case reflect.Bool, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		case reflect.Array:
			walk(typ.Elem(), path+"[]")
		case reflect.Struct:
			for i := range typ.NumField() {
				walk(typ.Field(i).Type, path+"."+typ.Field(i).Name)
			}
		default:
			t.Errorf("%s is a %v", path, k)
		}
	}
	walk(reflect.TypeFor[state](), "state")
}
