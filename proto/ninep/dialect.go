package ninep

import (
	"encoding/binary"

	"9ci/proto/internal/wire"
)

// A Dialect is what Tversion settled on.
type Dialect = wire.Dialect

const (
	None  = wire.None  // before Tversion, or not said
	Plan9 = wire.Plan9 // 9P2000
	DotL  = wire.DotL  // 9P2000.L, the Linux kernel's
)

var le = binary.LittleEndian
