package main

import (
	"context"
	"sort"
	"time"

	"github.com/pingcap/kvproto/pkg/cdcpb"
	"github.com/pingcap/log"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"
)

// prewriting notes that a prewrite has begun, until the returned function is called. Prewrites of
// async commit and 1PC take their commit_ts before their lock or version can be seen.
func (c *changeData) prewriting(startTS uint64) func() {
	if c == nil {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prewrites[startTS]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.prewrites[startTS]--; c.prewrites[startTS] == 0 {
			delete(c.prewrites, startTS)
		}
	}
}

func (c *changeData) advanceForever(interval time.Duration) {
	for ; ; time.Sleep(interval) {
		physical, logical, err := c.pd.GetTS(context.Background())
		if err != nil {
			log.Warn("no timestamp for resolved_ts", zap.Error(err))
			continue
		}
		c.advance(uint64(physical)<<18 + uint64(logical))
	}
}

// advance sends the resolved_ts of all feeds. now must have been got before the call: what commits
// below it has either been sent, or has a lock, or is one of the prewrites that have not ended.
func (c *changeData) advance(now uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held["resolved"] {
		return
	}
	for startTS := range c.prewrites {
		if startTS < now {
			now = startTS
		}
	}
	type group struct {
		stream    *stream
		requestID uint64
	}
	groups := map[group][]*feed{}
	for f := range c.feeds {
		if f.ready {
			f.resolvedTS = max(f.resolvedTS, c.history.oldestLock(f.start, f.end, now))
			key := group{stream: f.stream}
			if f.stream.multiplexing {
				key.requestID = f.requestID
			}
			groups[key] = append(groups[key], f)
		}
	}
	for key, feeds := range groups {
		sort.Slice(feeds, func(i, j int) bool { return feeds[i].resolvedTS < feeds[j].resolvedTS })
		for size := c.release.firstBatch(); len(feeds) > 0; size = c.release.nextBatch(size) {
			if size > len(feeds) {
				size = len(feeds)
			}
			key.stream.sendResolved(key.requestID, feeds[:size], feeds[0].resolvedTS)
			feeds = feeds[size:]
		}
	}
}

// firstBatch is how many of the slowest regions share the lowest resolved_ts.
func (r release) firstBatch() int {
	if r == releaseV65 {
		return 32
	}
	return 8
}

func (r release) nextBatch(size int) int {
	if r == releaseV65 {
		return 1 << 30
	}
	return size * 4
}

// sendResolved sends one resolved_ts for several feeds of the stream.
func (s *stream) sendResolved(requestID uint64, feeds []*feed, ts uint64) {
	resolved := &cdcpb.ResolvedTs{Ts: ts}
	for _, f := range feeds {
		f.sentTS = max(f.sentTS, ts)
		if !s.batching {
			f.send(&cdcpb.Event{Event: &cdcpb.Event_ResolvedTs{ResolvedTs: ts}})
		}
		resolved.Regions = append(resolved.Regions, f.regionID)
	}
	if !s.batching {
		return
	}
	if requestID != 0 {
		// request_id, which these messages' definition does not have yet.
		tag := protowire.AppendTag(nil, 3, protowire.VarintType)
		resolved.XXX_unrecognized = protowire.AppendVarint(tag, requestID)
	}
	s.push(&cdcpb.ChangeDataEvent{ResolvedTs: resolved})
}
