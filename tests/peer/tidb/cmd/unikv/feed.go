package main

import (
	"github.com/pingcap/kvproto/pkg/cdcpb"
	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/log"
	"go.uber.org/zap"
)

const maxEventBytes = 32 << 10

// feed is one region subscribed on a stream. It is guarded by changeData.mu.
type feed struct {
	stream              *stream
	regionID, requestID uint64
	region              *metapb.Region
	start, end          string // rows of these raw keys are sent
	filterLoop          bool
	// The incremental scan has read; INITIALIZED was sent.
	scanned, ready bool
	// An error was sent or the stream has ended: nothing is sent any more.
	ended bool
	// resolvedTS never falls; sentTS is the highest that was sent, maybe with slower regions.
	resolvedTS, sentTS uint64
}

// apply records a written batch and sends its rows to the feeds of their keys. Rows that are imported
// are sent by scans only, as TiKV observes no ingested files.
func (c *changeData) apply(batch *watchedBatch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var rows []*cdcpb.Event_Row
	for _, write := range batch.writes {
		if row := write(&c.history); row != nil && row.TxnSource&physicalImport == 0 {
			rows = append(rows, row)
		}
	}
	for f := range c.feeds {
		var entries []*cdcpb.Event_Row
		for _, row := range rows {
			if inRange(string(row.Key), f.start, f.end) && c.passes(f, row) {
				f.check(row)
				entries = append(entries, row)
			}
		}
		f.sendRows(entries)
	}
}

// passes tells whether a row is sent with regard to who wrote it: bits 0-7 of the source are
// TiCDC's, higher ones those of lossy DDL and physical imports.
func (c *changeData) passes(f *feed, row *cdcpb.Event_Row) bool {
	if c.release == releaseV65 {
		return row.TxnSource == 0 || !f.filterLoop
	}
	return row.TxnSource>>8 == 0 && (row.TxnSource&0xff == 0 || !f.filterLoop)
}

// check ends the process if a commit comes at or below a resolved_ts that was sent.
func (f *feed) check(row *cdcpb.Event_Row) {
	if row.CommitTs != 0 && row.CommitTs <= f.sentTS {
		log.Fatal("resolved_ts was wrong", zap.Uint64("region", f.regionID), zap.Stringer("row", row),
			zap.Uint64("resolved_ts", f.sentTS))
	}
}

// scan sends what there is above checkpointTS, and then INITIALIZED. Live rows overtake it.
func (c *changeData) scan(f *feed, checkpointTS uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitWhileHeld(f, "snapshot")
	rows := c.history.scan(f.start, f.end, checkpointTS)
	f.scanned = true
	c.waitWhileHeld(f, "scan")
	var entries []*cdcpb.Event_Row
	size := 0
	for _, row := range rows {
		if !c.passes(f, row) {
			continue
		}
		if size += row.Size(); size >= maxEventBytes && len(entries) > 0 {
			f.sendRows(entries)
			entries, size = nil, row.Size()
			// Let writers in, whose rows come between those of the scan.
			c.mu.Unlock()
			c.mu.Lock()
		}
		entries = append(entries, row)
	}
	f.sendRows(append(entries, &cdcpb.Event_Row{Type: cdcpb.Event_INITIALIZED}))
	f.ready = true
}

func (f *feed) sendRows(rows []*cdcpb.Event_Row) {
	if len(rows) > 0 {
		f.send(&cdcpb.Event{Event: &cdcpb.Event_Entries_{Entries: &cdcpb.Event_Entries{Entries: rows}}})
	}
}

func (f *feed) sendError(failure *cdcpb.Error) {
	f.send(&cdcpb.Event{Event: &cdcpb.Event_Error{Error: failure}})
}

func (f *feed) send(event *cdcpb.Event) {
	if !f.ended {
		event.RegionId, event.RequestId = f.regionID, f.requestID
		f.stream.push(&cdcpb.ChangeDataEvent{Events: []*cdcpb.Event{event}})
	}
}

// end removes a feed, with an error unless it is nil.
func (c *changeData) end(f *feed, failure *cdcpb.Error) {
	if failure != nil {
		f.sendError(failure)
	}
	f.ended = true
	delete(c.feeds, f)
	c.changed.Broadcast()
}

// aroundSplit runs a split between two writes and ends the feeds of the regions that were split.
func (c *changeData) aroundSplit(split func()) {
	if c == nil {
		split()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	split()
	for f := range c.feeds {
		var now []*metapb.Region
		for _, region := range c.regions.ScanRegions(f.region.StartKey, f.region.EndKey, 0) {
			now = append(now, region.Meta)
		}
		if len(now) != 1 {
			c.end(f, &cdcpb.Error{EpochNotMatch: &errorpb.EpochNotMatch{CurrentRegions: now}})
		}
	}
}

func (c *changeData) deleteRange(start, end []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history.deleteRange(string(start), string(end))
}
