package backend

import (
	"flag"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

var modelRounds = flag.Int("modelrounds", 3, "how many times 100 random lives TestAgainstModel has; make robust: 50")

// Random requests on several lanes, restarts, kills and power cuts, against the
// model. What fails shrinks to a script that replays (-rapid.seed).
func TestAgainstModel(t *testing.T) {
	dir := disktest.FastDir(t)
	steps := 0
	for round := range *modelRounds { // 100 lives each, more with -rapid.checks
		t.Run(strconv.Itoa(round), func(t *testing.T) { checkAgainstModel(t, dir, &steps) })
	}
	t.Logf("%d steps", steps)
}

func checkAgainstModel(t *testing.T, dir string, steps *int) {
	rapid.Check(t, func(t *rapid.T) {
		g := disktest.DrawGeometry(t)
		s := newScript(t, dir, g)
		defer s.abort()
		block := uint64(g.BlockSize) / disk.SectorSize
		zn := func(t *rapid.T) *disktest.ModelZone {
			return &s.m.Zones[rapid.IntRange(0, len(s.m.Zones)-1).Draw(t, "zone")]
		}
		sectors := rapid.OneOf(rapid.Uint64Range(0, 4), rapid.Uint64Range(0, g.ZoneSectors/block+1))
		lane := rapid.IntRange(0, scriptLanes-1)
		rarely := rapid.IntRange(0, 19)
		one := func(t *rapid.T, op disk.Op, sector, bytes uint64) {
			s.one(lane.Draw(t, "lane"), op, sector, bytes, rarely.Draw(t, "stable") == 0)
		}
		length := func(t *rapid.T) uint64 {
			if rarely.Draw(t, "odd length") == 0 {
				return rapid.Uint64Range(0, 70_000).Draw(t, "bytes")
			}
			return sectors.Draw(t, "blocks") * uint64(g.BlockSize)
		}
		write := func(t *rapid.T) {
			z := zn(t)
			sector := z.WP // mostly where it has to be
			if z.State == zonemodel.NotWP || rarely.Draw(t, "elsewhere") == 0 {
				sector = z.Start + sectors.Draw(t, "from")*block
			}
			one(t, disk.OpWrite, sector, length(t))
		}
		manage := func(op disk.Op) func(*rapid.T) {
			return func(t *rapid.T) { one(t, op, zn(t).Start, 0) }
		}
		appendTo := func(t *rapid.T) { one(t, disk.OpAppend, zn(t).Start, length(t)) }
		now := func(do func()) func(*rapid.T) {
			return func(t *rapid.T) {
				if rarely.Draw(t, "not now") == 0 {
					do()
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write 1": write, "write 2": write, "write 3": write,
			"append 1": appendTo, "append 2": appendTo,
			"open": manage(disk.OpOpen), "close": manage(disk.OpClose), "finish": manage(disk.OpFinish), "reset": manage(disk.OpReset),
			"flush": func(t *rapid.T) { one(t, disk.OpFlush, 0, 0) },
			"read": func(t *rapid.T) {
				one(t, disk.OpRead, zn(t).Start+sectors.Draw(t, "from")*block, length(t))
			},
			"batch": func(t *rapid.T) {
				z := rapid.IntRange(0, len(s.m.Zones)-1).Draw(t, "zone")
				s.batch(z, rapid.SliceOfN(rapid.Map(rapid.Uint64Range(1, 4), func(n uint64) uint64 { return n * uint64(g.BlockSize) }), 2, 8).Draw(t, "sizes"))
			},
			"reset all": now(func() { s.one(0, disk.OpResetAll, 0, 0, false) }),
			"restart":   now(s.restart),
			"kill":      now(s.kill),
			"cut":       now(s.cut),
		})
		*steps += s.steps
		s.end()
	})
}
