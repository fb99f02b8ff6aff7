package main

import (
	"github.com/pingcap/kvproto/pkg/cdcpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/store/mockstore/unistore/tikv/mvcc"
)

// watchedWriter is unistore's writer, through which every change of locks and versions passes. A
// batch is reported to the change feed after it was written, while its keys are still latched.
type watchedWriter struct {
	mvcc.DBWriter
	changes *changeData
}

type watchedBatch struct {
	mvcc.WriteBatch
	startTS, commitTS, source uint64
	writes                    []func(*history) *cdcpb.Event_Row
}

func (w *watchedWriter) NewWriteBatch(startTS, commitTS uint64, ctx *kvrpcpb.Context) mvcc.WriteBatch {
	inner := w.DBWriter.NewWriteBatch(startTS, commitTS, ctx)
	return &watchedBatch{WriteBatch: inner, startTS: startTS, commitTS: commitTS, source: ctx.GetTxnSource()}
}

func (w *watchedWriter) Write(batch mvcc.WriteBatch) error {
	watched := batch.(*watchedBatch)
	if err := w.DBWriter.Write(watched.WriteBatch); err != nil {
		return err
	}
	w.changes.apply(watched)
	return nil
}

func (w *watchedWriter) DeleteRange(start, end []byte, latches mvcc.LatchHandle) error {
	defer w.changes.deleteRange(start, end)
	return w.DBWriter.DeleteRange(start, end, latches)
}

func (b *watchedBatch) then(write func(*history) *cdcpb.Event_Row) {
	b.writes = append(b.writes, write)
}

func (b *watchedBatch) Prewrite(key []byte, lock *mvcc.Lock) {
	b.WriteBatch.Prewrite(key, lock)
	name := string(key)
	b.then(func(h *history) *cdcpb.Event_Row { return h.prewrite(name, lock, b.source) })
}

// PessimisticLock also writes other locks again, for a new TTL or min_commit_ts.
func (b *watchedBatch) PessimisticLock(key []byte, lock *mvcc.Lock) {
	b.WriteBatch.PessimisticLock(key, lock)
	name := string(key)
	b.then(func(h *history) *cdcpb.Event_Row { return h.relock(name, lock) })
}

func (b *watchedBatch) Commit(key []byte, lock *mvcc.Lock) {
	b.WriteBatch.Commit(key, lock)
	name := string(key)
	b.then(func(h *history) *cdcpb.Event_Row { return h.commit(name, lock, b.commitTS, b.source) })
}

func (b *watchedBatch) Rollback(key []byte, deleteLock bool) {
	b.WriteBatch.Rollback(key, deleteLock)
	name := string(key)
	b.then(func(h *history) *cdcpb.Event_Row { return h.rollback(name, b.startTS) })
}
