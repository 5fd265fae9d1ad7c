package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
)

func main() {
	binary := flag.String("zvhost", "/bin/zvhost", "the zvhost to try")
	dir := flag.String("dir", "/tmp/powercut", "an empty folder in memory to work in")
	fs := flag.String("fs", "ext4", "file system under the image: ext4 or xfs")
	cuts := flag.Int("cuts", 30, "how often the power goes")
	requests := flag.Int("requests", 700, "requests before that, for each geometry")
	seed := flag.Uint64("seed", 0, "what everything random follows from; 0: another one each time")
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	total := &tally{}
	err := run(*binary, *dir, *fs, *cuts, *requests, *seed, total)
	fmt.Printf("%s, -seed=%d: %v\n", *fs, *seed, total)
	if err != nil {
		fmt.Printf("FOUND: %v\n", err)
		os.Exit(1)
	}
}

// cutsEach is how many cuts are worth a load of their own.
const cutsEach = 8

// run spreads the cuts over as many geometries as they are enough for.
func run(binary, dir, fs string, cuts, requests int, seed uint64, total *tally) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := eagerWriteback(); err != nil {
		return err
	}
	base, err := makeFS(fs, dir+"/disk")
	if err != nil {
		return err
	}
	loads := min(max(1, cuts/cutsEach), len(geometries))
	for n, i := range rand.New(rand.NewPCG(seed, 0)).Perm(len(geometries))[:loads] {
		t := &trial{
			binary: binary, dir: dir, fs: fs, base: base, g: &geometries[i], through: i == writeThrough, seed: seed,
			rng: rand.New(rand.NewPCG(seed, uint64(i))), requests: requests, tally: total,
		}
		if t.through {
			t.requests /= 8
		}
		if err := t.run((cuts + n) / loads); err != nil {
			return fmt.Errorf("%s: %w", t.g.Name, err)
		}
	}
	return nil
}
