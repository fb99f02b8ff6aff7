//go:build tools

// Package peer keeps tidb-server among the requirements of go.mod.
package peer

import _ "github.com/pingcap/tidb/tidb-server"
