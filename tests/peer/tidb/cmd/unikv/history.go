package main

import (
	"sort"

	"github.com/pingcap/kvproto/pkg/cdcpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/store/mockstore/unistore/tikv/mvcc"
)

// shortValueBytes is the largest value that TiKV stores in the lock and the write record.
const shortValueBytes = 255

// history has every version of every key since the store began, and the locks of changes that are
// not committed yet. unistore itself loses old versions now and then.
type history struct {
	versions map[string][]version // by raw key, oldest first
	locks    map[string]prewritten
	blocks   map[string][]*block // by the prefix of their table
	// importing are the prefixes of the keys of tables whose writes are taken for physical imports.
	importing map[string]bool
}

// block has the keys of some versions of one table, in the order of their commits, and the newest
// commit_ts. A scan of a region looks at the changes of its tables after its checkpoint only, as that
// of TiKV, which skips files by their tables and timestamps.
type block struct {
	keys   []string
	newest uint64
}

const blockKeys = 4096

func (h *history) add(key string, v version) {
	h.versions[key] = append(h.versions[key], v)
	prefix := tableOf(key)
	blocks := h.blocks[prefix]
	if n := len(blocks); n == 0 || len(blocks[n-1].keys) == blockKeys {
		blocks = append(blocks, &block{})
		h.blocks[prefix] = blocks
	}
	last := blocks[len(blocks)-1]
	last.keys, last.newest = append(last.keys, key), max(last.newest, v.commitTS)
}

// physicalImport is the bit of a txn_source by which TiDB marks rows that were ingested as files.
const physicalImport = 1 << 16

// prefixLen is the length of what the keys of one table begin with: t and its id.
const prefixLen = 9

// tableOf returns the first bytes of a key, which are those of its table if it has one.
func tableOf(key string) string {
	if len(key) > prefixLen {
		return key[:prefixLen]
	}
	return key
}

type version struct {
	prewritten
	commitTS uint64
}

// prewritten is a lock of type Put or Delete with its value.
type prewritten struct {
	startTS, forUpdateTS, source uint64
	op                           cdcpb.Event_Row_OpType
	value                        []byte
}

// prewrite adds a lock and returns its row; nil for locks that change nothing.
func (h *history) prewrite(key string, lock *mvcc.Lock, source uint64) *cdcpb.Event_Row {
	p, changes := prewrittenBy(lock, h.sourceOf(key, source))
	if !changes {
		return nil
	}
	h.locks[key] = p
	return h.prewriteRow(key, p)
}

// relock returns the row of a lock that was written again, with another TTL or min_commit_ts. TiKV
// writes only the lock, in which long values are missing, and skips the row without its value.
func (h *history) relock(key string, lock *mvcc.Lock) *cdcpb.Event_Row {
	p, found := h.locks[key]
	if _, changes := prewrittenBy(lock, 0); !changes || !found || len(p.value) > shortValueBytes {
		return nil
	}
	return h.prewriteRow(key, p)
}

// commit adds a version and returns its row: COMMIT if there is a lock, COMMITTED for a transaction
// that was committed in one phase.
func (h *history) commit(key string, lock *mvcc.Lock, commitTS, source uint64) *cdcpb.Event_Row {
	p, changes := prewrittenBy(lock, h.sourceOf(key, source))
	if !changes {
		return nil
	}
	held, found := h.locks[key]
	if !found || held.startTS != p.startTS {
		v := version{p, commitTS}
		row := h.committedRow(key, v)
		h.add(key, v)
		return row
	}
	delete(h.locks, key)
	h.add(key, version{held, commitTS})
	row := rowOf(cdcpb.Event_COMMIT, key, held)
	row.CommitTs = commitTS
	if len(held.value) > shortValueBytes {
		row.Value = nil
	}
	return row
}

func (h *history) sourceOf(key string, source uint64) uint64 {
	if len(key) > prefixLen && h.importing[key[:prefixLen]] {
		return source | physicalImport
	}
	return source
}

func (h *history) rollback(key string, startTS uint64) *cdcpb.Event_Row {
	if p, found := h.locks[key]; found && p.startTS == startTS {
		delete(h.locks, key)
	}
	return &cdcpb.Event_Row{Type: cdcpb.Event_ROLLBACK, StartTs: startTS, Key: []byte(key)}
}

func (h *history) deleteRange(start, end string) {
	for key := range h.versions {
		if inRange(key, start, end) {
			delete(h.versions, key)
		}
	}
}

// scan returns the rows of an incremental scan: key by key, the lock and then the versions above
// checkpointTS, newest first.
func (h *history) scan(start, end string, checkpointTS uint64) []*cdcpb.Event_Row {
	found := map[string]struct{}{}
	for key := range h.locks {
		if inRange(key, start, end) {
			found[key] = struct{}{}
		}
	}
	first := tableOf(start)
	for prefix, blocks := range h.blocks {
		if prefix < first || end != "" && prefix >= end {
			continue
		}
		for _, b := range blocks {
			if b.newest <= checkpointTS {
				continue
			}
			for _, key := range b.keys {
				if inRange(key, start, end) {
					found[key] = struct{}{}
				}
			}
		}
	}
	keys := make([]string, 0, len(found))
	for key := range found {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var rows []*cdcpb.Event_Row
	for _, key := range keys {
		if p, found := h.locks[key]; found {
			rows = append(rows, h.prewriteRow(key, p))
		}
		versions := h.versions[key]
		for i := len(versions) - 1; i >= 0 && versions[i].commitTS > checkpointTS; i-- {
			rows = append(rows, h.committedRow(key, versions[i]))
		}
	}
	return rows
}

// oldestLock returns the lowest start_ts of the locks in a range, or limit if that is lower.
func (h *history) oldestLock(start, end string, limit uint64) uint64 {
	for key, p := range h.locks {
		if p.startTS < limit && inRange(key, start, end) {
			limit = p.startTS
		}
	}
	return limit
}

func (h *history) prewriteRow(key string, p prewritten) *cdcpb.Event_Row {
	row := rowOf(cdcpb.Event_PREWRITE, key, p)
	row.OldValue = h.valueAt(key, max(p.startTS, p.forUpdateTS))
	return row
}

func (h *history) committedRow(key string, v version) *cdcpb.Event_Row {
	row := rowOf(cdcpb.Event_COMMITTED, key, v.prewritten)
	row.CommitTs, row.OldValue = v.commitTS, h.valueAt(key, v.commitTS-1)
	return row
}

func (h *history) valueAt(key string, ts uint64) []byte {
	versions := h.versions[key]
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].commitTS <= ts {
			return versions[i].value
		}
	}
	return nil
}

func prewrittenBy(lock *mvcc.Lock, source uint64) (p prewritten, changes bool) {
	p = prewritten{startTS: lock.StartTS, forUpdateTS: lock.ForUpdateTS, source: source}
	switch kvrpcpb.Op(lock.Op) {
	case kvrpcpb.Op_Put:
		p.op, p.value = cdcpb.Event_Row_PUT, lock.Value
	case kvrpcpb.Op_Del:
		p.op = cdcpb.Event_Row_DELETE
	default:
		return p, false
	}
	return p, true
}

func rowOf(kind cdcpb.Event_LogType, key string, p prewritten) *cdcpb.Event_Row {
	return &cdcpb.Event_Row{
		Type: kind, Key: []byte(key), StartTs: p.startTS, OpType: p.op, Value: p.value, TxnSource: p.source,
	}
}

// inRange compares raw keys; an empty end is no limit.
func inRange(key, start, end string) bool {
	return start <= key && (end == "" || key < end)
}

func max(a, b uint64) uint64 {
	if a > b {
		return a
	}
	return b
}
