package image

import (
	"testing"

	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }
