package device

import (
	"fmt"
	"os"
	"testing"

	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(asSpeaker) != "" {
		if err := speak(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testleak.Main(m)
}
