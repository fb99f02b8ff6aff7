package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// tapped names the requests that change something.
var tapped = map[string]bool{
	"KvPrewrite": true, "KvCommit": true, "KvBatchRollback": true, "KvPessimisticLock": true,
	"KVPessimisticRollback": true, "KvResolveLock": true, "KvCheckTxnStatus": true,
	"KvCheckSecondaryLocks": true, "KvTxnHeartBeat": true, "KvCleanup": true, "KvDeleteRange": true,
	"SplitRegion": true, "UnsafeDestroyRange": true,
}

// tap writes requests exactly as they came, with their answers: a line of JSON each, when it ends.
// n and m number the begins and the ends. All but KvPessimisticLock, which may have to wait for
// others, run one at a time, so the order of lines is the order in which they took effect.
type tap struct {
	file           *os.File
	sequence       uint64
	writing, apply sync.Mutex
}

type marshaler interface{ Marshal() ([]byte, error) }

func (t *tap) intercept(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	name := path.Base(info.FullMethod)
	if !tapped[name] {
		return handler(ctx, request)
	}
	if name != "KvPessimisticLock" {
		t.apply.Lock()
		defer t.apply.Unlock()
	}
	begin := t.next()
	response, err := handler(ctx, request)
	t.write(begin, name, request, response, err)
	return response, err
}

func (t *tap) next() uint64 {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.sequence++
	return t.sequence
}

func (t *tap) write(begin uint64, name string, request, response any, failure error) {
	answer, reason := "", ""
	if failure != nil {
		reason = failure.Error()
	} else {
		answer = encode(response)
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	t.sequence++
	_, err := fmt.Fprintf(t.file, "{\"n\":%d,\"m\":%d,\"us\":%d,\"rpc\":%q,\"req\":%q,\"resp\":%q,\"err\":%q}\n",
		begin, t.sequence, time.Now().UnixMicro(), name, encode(request), answer, reason)
	must(err)
}

func encode(message any) string {
	data, err := message.(marshaler).Marshal()
	must(err)
	return hex.EncodeToString(data)
}
