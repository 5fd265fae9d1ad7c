package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// zoneLook is how a state appears on the map: a letter, an SGR colour for terminals
// (ECMA-48), and its name in the legend.
var zoneLook = map[zone.State]struct {
	letter byte
	colour string
	words  string
}{
	zone.NotWP:    {'n', "34", "conventional"},
	zone.Empty:    {'.', "90", "empty"},
	zone.ImpOpen:  {'i', "32", "implicitly open"},
	zone.ExpOpen:  {'o', "92", "explicitly open"},
	zone.Closed:   {'c', "33", "closed"},
	zone.Full:     {'F', "36", "full"},
	zone.ReadOnly: {'R', "35", "read-only"},
	zone.Offline:  {'X', "31", "offline"},
}

// legendOrder is the order of the states in the legend.
var legendOrder = []zone.State{
	zone.NotWP, zone.Empty, zone.ImpOpen, zone.ExpOpen,
	zone.Closed, zone.Full, zone.ReadOnly, zone.Offline,
}

// mixedLetter stands for several zones that are not in one state.
const mixedLetter = '*'

// fillBlocks show how much of a zone is written, in eighths.
var fillBlocks = []rune(" ▁▂▃▄▅▆▇█")

// fillDigits are the same for a locale that has only ASCII.
var fillDigits = []rune(" 12345678")

const (
	// mapRows bounds the height of the map; a disk with more zones than fit
	// shows several in one column.
	mapRows = 16
	// mapMargin is the width of the margin left of the map.
	mapMargin = 9
)

// zoneMap draws the zones of a disk, a column each: a letter for the state and
// under it a bar for how much is written.
type zoneMap struct {
	width  int  // columns of the terminal
	colour bool // the terminal takes colours
	ascii  bool // the terminal shows only ASCII
}

// draw writes the map, a legend of the states that occur, and a summary.
func (m zoneMap) draw(w io.Writer, zones []zone.Descriptor, info *disk.ZonedInfo) error {
	b := bufio.NewWriter(w)
	columns := max((m.width-mapMargin)/16*16, 16) // round numbers at the margin
	perCell := (len(zones) + columns*mapRows - 1) / (columns * mapRows)
	for row := 0; row < len(zones); row += columns * perCell {
		end := min(row+columns*perCell, len(zones))
		var states, fills strings.Builder
		for i := row; i < end; i += perCell {
			m.cell(&states, &fills, zones[i:min(i+perCell, end)])
		}
		fmt.Fprintf(b, "%7d  %s\n", row, states.String())
		if fill := strings.TrimRight(fills.String(), " "); fill != "" {
			fmt.Fprintf(b, "%7s  %s\n", "", fill)
		}
	}
	m.legend(b, zones, perCell)
	summary(b, zones, info)
	return b.Flush()
}

// cell draws one column.
func (m zoneMap) cell(states, fills *strings.Builder, zones []zone.Descriptor) {
	var written, capacity uint64
	state, mixed := zones[0].State, false
	for _, z := range zones {
		written += writtenSectors(z)
		capacity += z.Capacity
		mixed = mixed || z.State != state
	}
	look := zoneLook[state]
	if mixed {
		look.letter, look.colour = mixedLetter, "37"
	}
	fill := fillBlocks
	if m.ascii {
		fill = fillDigits
	}
	bar := fill[0]
	if written > 0 && capacity > 0 {
		// One written sector is visible, and the full bar means full.
		eighths := float64(written) / float64(capacity) * float64(len(fill)-1)
		bar = fill[min(max(int(eighths), 1), len(fill)-1)]
	}
	states.WriteString(m.paint(look.colour, string(look.letter)))
	if bar == ' ' {
		fills.WriteByte(' ')
		return
	}
	fills.WriteString(m.paint(look.colour, string(bar)))
}

func (m zoneMap) paint(colour, text string) string {
	if !m.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// legend explains the letters that occur, on as many lines as the width asks
// for.
func (m zoneMap) legend(w io.Writer, zones []zone.Descriptor, perCell int) {
	n := countStates(zones)
	line, used := "", 0
	add := func(colour string, letter byte, words string) {
		size := len(words) + 4
		if used > 0 && mapMargin+used+size > m.width {
			_, _ = fmt.Fprintf(w, "%7s  %s\n", "", strings.TrimRight(line, " "))
			line, used = "", 0
		}
		line += m.paint(colour, string(letter)) + " " + words + "  "
		used += size
	}
	for _, s := range legendOrder {
		if look := zoneLook[s]; n[s] > 0 {
			add(look.colour, look.letter, look.words)
		}
	}
	if perCell > 1 {
		add("37", mixedLetter, "several states")
		add("0", '|', fmt.Sprintf("a column is %d zones", perCell))
	}
	_, _ = fmt.Fprintf(w, "%7s  %s\n", "", strings.TrimRight(line, " "))
}

// summary writes the totals of the zones.
func summary(w io.Writer, zones []zone.Descriptor, info *disk.ZonedInfo) {
	var written, capacity uint64
	for _, z := range zones {
		if z.Type == zone.SequentialWriteRequired {
			written += writtenSectors(z)
			capacity += z.Capacity
		}
	}
	n := countStates(zones)
	_, _ = fmt.Fprintf(w, "%7s  %s of %s: %d empty, %d open%s, %d closed, %d full",
		"", count(len(zones), "zone"), formatSize(info.ZoneSectors*sectorBytes),
		n[zone.Empty], n[zone.ImpOpen]+n[zone.ExpOpen], limitText(info.MaxOpen), n[zone.Closed], n[zone.Full])
	for _, s := range []zone.State{zone.NotWP, zone.ReadOnly, zone.Offline} {
		if n[s] > 0 {
			_, _ = fmt.Fprintf(w, ", %d %s", n[s], zoneLook[s].words)
		}
	}
	_, _ = fmt.Fprintf(w, "\n%7s  %s of %s written, not counting conventional zones\n",
		"", formatSize(written*sectorBytes), formatSize(capacity*sectorBytes))
}

func limitText(limit uint32) string {
	if limit == 0 {
		return ""
	}
	return fmt.Sprintf(" (at most %d)", limit)
}

func countStates(zones []zone.Descriptor) map[zone.State]int {
	n := map[zone.State]int{}
	for _, z := range zones {
		n[z.State]++
	}
	return n
}
