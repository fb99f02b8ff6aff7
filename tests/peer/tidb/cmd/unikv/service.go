package main

import (
	"context"
	"time"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	unipd "github.com/pingcap/tidb/store/mockstore/unistore/pd"
	"github.com/pingcap/tidb/store/mockstore/unistore/tikv"
)

// service is unistore's server with the calls that it leaves empty.
type service struct {
	*tikv.Server
	regions *tikv.MockRegionManager
	pd      unipd.Client
	changes *changeData // nil without a change feed
}

// KvPrewrite reports its beginning and its end to the change feed.
func (s *service) KvPrewrite(
	ctx context.Context, request *kvrpcpb.PrewriteRequest,
) (*kvrpcpb.PrewriteResponse, error) {
	defer s.changes.prewriting(request.StartVersion)()
	return s.Server.KvPrewrite(ctx, request)
}

// SplitRegion ends the feeds of the regions that it splits.
func (s *service) SplitRegion(
	ctx context.Context, request *kvrpcpb.SplitRegionRequest,
) (response *kvrpcpb.SplitRegionResponse, err error) {
	s.changes.aroundSplit(func() { response, err = s.Server.SplitRegion(ctx, request) })
	return response, err
}

// UnsafeDestroyRange is not announced to feeds, but scans do not find the rows any more.
func (s *service) UnsafeDestroyRange(
	ctx context.Context, request *kvrpcpb.UnsafeDestroyRangeRequest,
) (*kvrpcpb.UnsafeDestroyRangeResponse, error) {
	if s.changes != nil {
		s.changes.deleteRange(request.StartKey, request.EndKey)
	}
	return s.Server.UnsafeDestroyRange(ctx, request)
}

// ReadIndex answers with a lock that is in the way, or with an index that grows.
func (s *service) ReadIndex(
	ctx context.Context, request *kvrpcpb.ReadIndexRequest,
) (*kvrpcpb.ReadIndexResponse, error) {
	if _, regionError := s.regions.GetRegionFromCtx(request.Context); regionError != nil {
		return &kvrpcpb.ReadIndexResponse{RegionError: regionError}, nil
	}
	for _, r := range request.Ranges {
		found, err := s.KvScanLock(ctx, &kvrpcpb.ScanLockRequest{
			Context: request.Context, MaxVersion: request.StartTs, StartKey: r.StartKey, EndKey: r.EndKey, Limit: 1,
		})
		if err == nil && len(found.Locks) > 0 {
			return &kvrpcpb.ReadIndexResponse{Locked: found.Locks[0]}, nil
		}
	}
	return &kvrpcpb.ReadIndexResponse{ReadIndex: uint64(time.Now().Unix())}, nil
}

// GetStoreSafeTS answers with a timestamp below every lock.
func (s *service) GetStoreSafeTS(
	ctx context.Context, _ *kvrpcpb.StoreSafeTSRequest,
) (*kvrpcpb.StoreSafeTSResponse, error) {
	physical, logical, err := s.pd.GetTS(ctx)
	if err != nil {
		return nil, err
	}
	ts := uint64(physical)<<18 + uint64(logical)
	for _, r := range s.regions.ScanRegions(nil, nil, 0) {
		region := &kvrpcpb.Context{
			RegionId: r.Meta.Id, RegionEpoch: r.Meta.RegionEpoch, Peer: r.Meta.Peers[0],
		}
		found, err := s.KvScanLock(ctx, &kvrpcpb.ScanLockRequest{Context: region, MaxVersion: ts, Limit: 1024})
		if err != nil {
			return nil, err
		}
		for _, lock := range found.Locks {
			if lock.LockVersion <= ts {
				ts = lock.LockVersion - 1
			}
		}
	}
	return &kvrpcpb.StoreSafeTSResponse{SafeTs: ts}, nil
}
