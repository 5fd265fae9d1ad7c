package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
)

// A host is what a run works with.
type host struct {
	zvhost, device, zones, socket   string
	configfs, errors, vanish, until string
	rounds                          int
	options                         []string // more of serve's
	refused                         bool
	rng                             *rand.Rand
}

func main() {
	h := &host{}
	flag.StringVar(&h.zvhost, "zvhost", "/bin/zvhost", "the zvhost to try")
	flag.StringVar(&h.device, "device", "", "the drive; all of it is erased")
	flag.StringVar(&h.zones, "zones", "", "a window of it, FIRST-LAST")
	flag.StringVar(&h.socket, "socket", "/tmp/drives.sock", "agree: where it is served; else where to serve it")
	flag.StringVar(&h.configfs, "configfs", "", "faults: null_blk's folder of the drive")
	flag.StringVar(&h.errors, "errors", "", "scsi: scsi_debug's file for rules")
	flag.StringVar(&h.vanish, "vanish", "", "faults, scsi, storm: FILE=VALUE to write so that the drive vanishes")
	flag.StringVar(&h.until, "until", "", "storm: end before all rounds when this FILE is there; others change zones up to then")
	flag.BoolVar(&h.refused, "refused", false, "storm: something has to have been refused")
	flag.IntVar(&h.rounds, "rounds", 5, "kill, keep, move, storm: how often")
	seed := flag.Uint64("seed", 0, "what everything random follows from; 0: another one each time")
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	h.rng = rand.New(rand.NewPCG(*seed, 0))
	run := map[string]func() (string, error){"agree": h.agreeOnce, "edges": h.edges, "kill": h.kill, "keep": h.keep, "limits": h.limits, "move": h.move, "faults": h.faults, "scsi": h.scsi, "storm": h.storm}[flag.Arg(0)]
	if run == nil || h.device == "" {
		flag.Usage()
		os.Exit(2)
	}
	said, err := run()
	if err != nil {
		fmt.Printf("FOUND with -seed=%d: %v\n", *seed, err)
		os.Exit(1)
	}
	fmt.Println(said)
}
