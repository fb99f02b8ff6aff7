package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-semver/semver"
	"github.com/pingcap/kvproto/pkg/cdcpb"
	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	unipd "github.com/pingcap/tidb/store/mockstore/unistore/pd"
	"github.com/pingcap/tidb/store/mockstore/unistore/tikv"
	"github.com/pingcap/tidb/util/codec"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	deregisterField = 13
	maxEvents       = 64
	maxMessageEvent = 6 << 20
)

// release is the TiKV whose change feed is imitated.
//
//	v6.5: EventFeed only; one feed of a region on a stream; rows of the whole region are sent.
//	v8.5: EventFeedV2 too; a region may be subscribed with several request ids; ranges are respected.
type release string

const (
	releaseOff release = "off"
	releaseV65 release = "v6.5"
	releaseV85 release = "v8.5"
)

var (
	batchingSince  = semver.Version{Major: 4, Minor: 0, Patch: 8}
	clusterIDSince = semver.Version{Major: 5, Minor: 3}
)

// changeData serves cdcpb.ChangeData, the change feed that TiCDC reads. One mutex guards it all, so
// that writes, scans, splits and resolved timestamps have one order.
type changeData struct {
	release   release
	pd        unipd.Client
	regions   *tikv.MockRegionManager
	clusterID uint64

	mu        sync.Mutex
	changed   *sync.Cond // an item of held was released, or a feed has ended
	history   history
	prewrites map[uint64]int // start_ts -> how many calls have not ended
	feeds     map[*feed]struct{}
	streams   map[*stream]struct{}
	// What tests have ordered: what does not happen for now, and errors for coming registrations.
	held     map[string]bool
	refusals map[uint64][]*cdcpb.Error // by region, 0 for any
}

// stream is one EventFeed call. Its queue is guarded by changeData.mu.
type stream struct {
	version                                 *semver.Version
	batching, checksClusterID, multiplexing bool
	queue                                   []*cdcpb.ChangeDataEvent
	wake                                    chan struct{}
	ending                                  chan error
}

func newChangeData(r release, pd unipd.Client) *changeData {
	c := &changeData{
		release: r, pd: pd, clusterID: pd.GetClusterID(context.Background()),
		history: history{
			versions: map[string][]version{}, locks: map[string]prewritten{}, importing: map[string]bool{},
			blocks: map[string][]*block{},
		},
		prewrites: map[uint64]int{}, feeds: map[*feed]struct{}{}, streams: map[*stream]struct{}{},
		held: map[string]bool{}, refusals: map[uint64][]*cdcpb.Error{},
	}
	c.changed = sync.NewCond(&c.mu)
	return c
}

func (c *changeData) serve(server *grpc.Server, interval time.Duration) {
	desc := grpc.ServiceDesc{ServiceName: "cdcpb.ChangeData", HandlerType: (*any)(nil), Metadata: "cdcpb.proto"}
	add := func(name string, handler grpc.StreamHandler) {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: name, Handler: handler, ServerStreams: true, ClientStreams: true,
		})
	}
	add("EventFeed", func(_ any, g grpc.ServerStream) error { return c.run(g, false) })
	if c.release != releaseV65 {
		add("EventFeedV2", func(_ any, g grpc.ServerStream) error {
			multiplexing, err := parseFeatures(g.Context())
			if err != nil {
				return err
			}
			return c.run(g, multiplexing)
		})
	}
	server.RegisterService(&desc, c)
	go c.advanceForever(interval)
}

func parseFeatures(ctx context.Context) (multiplexing bool, err error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	for _, value := range headers.Get("features") {
		for _, feature := range strings.Split(value, ",") {
			if strings.TrimSpace(feature) != "stream-multiplexing" {
				return false, status.Error(codes.Unimplemented, feature)
			}
			multiplexing = true
		}
	}
	return multiplexing, nil
}

// run serves a stream until one side ends it.
func (c *changeData) run(g grpc.ServerStream, multiplexing bool) error {
	s := &stream{multiplexing: multiplexing, wake: make(chan struct{}, 1), ending: make(chan error, 3)}
	c.mu.Lock()
	c.streams[s] = struct{}{}
	c.mu.Unlock()
	defer c.close(s)
	go func() { s.ending <- c.receive(s, g) }()
	go func() { s.ending <- c.sendAll(s, g) }()
	select {
	case err := <-s.ending:
		return err
	case <-g.Context().Done():
		return g.Context().Err()
	}
}

func (c *changeData) close(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, s)
	for f := range c.feeds {
		if f.stream == s {
			c.end(f, nil)
		}
	}
}

// receive returns nil when the client has said all it has to say, which ends the stream.
func (c *changeData) receive(s *stream, g grpc.ServerStream) error {
	for {
		request := &cdcpb.ChangeDataRequest{}
		if err := g.RecvMsg(request); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		// TiKV v6.5 has no Deregister and takes one for a registration.
		if c.release != releaseV65 && deregisters(request) {
			c.deregister(s, request.RequestId, request.RegionId)
		} else if c.release != releaseV65 && request.GetNotifyTxnStatus() != nil {
			return status.Error(codes.InvalidArgument, "TiKV panics on NotifyTxnStatus")
		} else {
			c.register(s, request)
		}
	}
}

// deregisters looks for a member of the request's oneof that its definition does not have yet.
func deregisters(request *cdcpb.ChangeDataRequest) bool {
	for rest := request.XXX_unrecognized; len(rest) > 0; {
		field, _, size := protowire.ConsumeField(rest)
		if field == deregisterField || size < 0 {
			return size >= 0
		}
		rest = rest[size:]
	}
	return false
}

func (c *changeData) deregister(s *stream, requestID, regionID uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for f := range c.feeds {
		if f.stream == s && f.requestID == requestID && (regionID == 0 || regionID == f.regionID) {
			c.end(f, &cdcpb.Error{RegionNotFound: &errorpb.RegionNotFound{RegionId: f.regionID}})
		}
	}
}

func (c *changeData) register(s *stream, request *cdcpb.ChangeDataRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, open := c.streams[s]; !open {
		return
	}
	f := &feed{
		stream: s, regionID: request.RegionId, requestID: request.RequestId, filterLoop: request.FilterLoop,
	}
	if failure := c.admit(f, request); failure != nil {
		f.sendError(failure)
		return
	}
	f.start, f.end = rawRange(f.region.StartKey, f.region.EndKey)
	if c.release != releaseV65 {
		f.narrow(request.StartKey, request.EndKey)
	}
	c.feeds[f] = struct{}{}
	go c.scan(f, request.CheckpointTs)
}

// admit returns why a region cannot be subscribed, by the checks of TiKV in their order.
func (c *changeData) admit(f *feed, request *cdcpb.ChangeDataRequest) *cdcpb.Error {
	version, err := semver.NewVersion(request.GetHeader().GetTicdcVersion())
	if err != nil {
		version = &semver.Version{}
	}
	previous := f.stream.version
	if previous == nil {
		f.stream.version = version
		f.stream.batching = !version.LessThan(batchingSince)
		f.stream.checksClusterID = !version.LessThan(clusterIDSince)
	}
	if id := request.GetHeader().GetClusterId(); f.stream.checksClusterID && id != c.clusterID {
		return &cdcpb.Error{ClusterIdMismatch: &cdcpb.ClusterIDMismatch{Current: c.clusterID, Request: id}}
	}
	if request.KvApi != cdcpb.ChangeDataRequest_TiDB {
		return &cdcpb.Error{Compatibility: &cdcpb.Compatibility{RequiredVersion: "6.2.0"}}
	}
	if failure := c.refusal(f.regionID); failure != nil {
		return failure
	}
	if f.region = c.findRegion(f.regionID); f.region == nil {
		return &cdcpb.Error{RegionNotFound: &errorpb.RegionNotFound{RegionId: f.regionID}}
	}
	if c.release == releaseV65 && previous != nil && !previous.Equal(*version) {
		return &cdcpb.Error{Compatibility: &cdcpb.Compatibility{RequiredVersion: previous.String()}}
	}
	for other := range c.feeds {
		if other.stream == f.stream && other.regionID == f.regionID &&
			(c.release == releaseV65 || other.requestID == f.requestID) {
			return &cdcpb.Error{DuplicateRequest: &cdcpb.DuplicateRequest{RegionId: f.regionID}}
		}
	}
	if request.GetRegionEpoch().GetVersion() != f.region.RegionEpoch.Version {
		return &cdcpb.Error{EpochNotMatch: &errorpb.EpochNotMatch{CurrentRegions: []*metapb.Region{f.region}}}
	}
	return nil
}

func (c *changeData) findRegion(id uint64) *metapb.Region {
	for _, region := range c.regions.ScanRegions(nil, nil, 0) {
		if region.Meta.Id == id {
			return region.Meta
		}
	}
	return nil
}

// narrow limits the rows to a range. Like TiKV it sends the whole region if a bound is empty.
func (f *feed) narrow(startKey, endKey []byte) {
	if len(startKey) == 0 || len(endKey) == 0 {
		return
	}
	if start, end := rawRange(startKey, endKey); end != "" {
		if start > f.start {
			f.start = start
		}
		if f.end == "" || end < f.end {
			f.end = end
		}
	}
}

// rawRange decodes memcomparable bounds; an empty or malformed one is no limit.
func rawRange(startKey, endKey []byte) (start, end string) {
	_, decoded, err := codec.DecodeBytes(startKey, nil)
	if err == nil {
		start = string(decoded)
	}
	if _, decoded, err = codec.DecodeBytes(endKey, nil); err == nil {
		end = string(decoded)
	}
	return start, end
}

// push queues a message; changeData.mu is held.
func (s *stream) push(event *cdcpb.ChangeDataEvent) {
	s.queue = append(s.queue, event)
	s.wakeUp()
}

func (s *stream) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (c *changeData) sendAll(s *stream, g grpc.ServerStream) error {
	for {
		select {
		case <-g.Context().Done():
			return nil
		case <-s.wake:
		}
		for event := c.next(s); event != nil; event = c.next(s) {
			if err := g.SendMsg(event); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
	}
}

// next takes the next message from the queue, made of several events where they follow each other.
func (c *changeData) next(s *stream) *cdcpb.ChangeDataEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(s.queue) == 0 || c.held["send"] {
		return nil
	}
	first, size, used := s.queue[0], s.queue[0].Size(), 1
	for first.ResolvedTs == nil && used < len(s.queue) && used < maxEvents {
		event := s.queue[used]
		if size += event.Size(); event.ResolvedTs != nil || size > maxMessageEvent {
			break
		}
		first.Events = append(first.Events, event.Events...)
		used++
	}
	s.queue = s.queue[used:]
	return first
}
