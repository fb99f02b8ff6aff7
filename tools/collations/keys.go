// Prints TiDB's sort key of each string, under the collation that the only argument names.
//
// Input and output are lines of hexadecimal digits. Where TiDB panics the line says so.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/pingcap/tidb/pkg/util/collate"
)

func key(collator collate.Collator, s string) (printed string) {
	defer func() {
		if recover() != nil {
			printed = "panic"
		}
	}()
	return hex.EncodeToString(collator.Key(s))
}

func main() {
	collator := collate.GetCollator(os.Args[1])
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		s, err := hex.DecodeString(in.Text())
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(out, key(collator, string(s)))
	}
	if err := in.Err(); err != nil {
		panic(err)
	}
}
