package suite

import (
	"flag"
	"testing"

	"github.com/zvhost/zvhost/internal/testleak"
)

var (
	socketFlag      = flag.String("socket", "", "run against the disk that is served on this socket, and erase it, instead of own daemons")
	vfioFlag        = flag.String("vfio-user", "", "the same, with a vfio-user server on this socket")
	controlFlag     = flag.String("control", "", "with -socket: the daemon's control socket, by which zones are put out of service")
	imageFlag       = flag.String("image", "", "with -socket: the image that is served, to read the zone table from")
	sampleFlag      = flag.Bool("sample", false, "with -socket: read samples of what zones hold, for large zones and slow disks (see Served.Sample)")
	oneInFlag       = flag.Int("one-in", 1, "with -socket: TestTable sends one in so many of its reads, writes, appends and reports")
	engineOneInFlag = flag.Int("engine-one-in", 29, "TestTableOnEachEngine sends one in so many of its reads, writes, appends and reports")
	doorOneInFlag   = flag.Int("door-one-in", 29, "TestTableOverVFIOUser sends one in so many of its reads, writes, appends and reports")
	scriptFlag      = flag.String("script", "", "a script for TestScripts to run besides those in testdata/scripts")
	roundsFlag      = flag.Int("rounds", 1, "how much longer than usual TestRandom is to take")
)

func TestMain(m *testing.M) {
	// Scripts shrink by themselves, line by line, which takes far fewer tries than
	// what they were drawn from; and they are what is kept of a failure.
	for name, value := range map[string]string{"rapid.shrinktime": "0s", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	testleak.Main(m)
}
