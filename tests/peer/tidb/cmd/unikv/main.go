// Command unikv is one TiKV store in one process: unistore, the storage that TiDB embeds for its
// own tests, served over gRPC, registered with a PD and heartbeating to it. It keeps nothing on
// restart and listens on loopback only.
//
// What unistore lacks is made up here, so ReadIndex, GetStoreSafeTS and the heartbeats say nothing
// about TiKV.
package main

import (
	"context"
	"flag"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"github.com/pingcap/badger"
	"github.com/pingcap/badger/options"
	"github.com/pingcap/kvproto/pkg/deadlock"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"github.com/pingcap/log"
	"github.com/pingcap/tidb/store/mockstore/unistore/config"
	"github.com/pingcap/tidb/store/mockstore/unistore/lockstore"
	unipd "github.com/pingcap/tidb/store/mockstore/unistore/pd"
	"github.com/pingcap/tidb/store/mockstore/unistore/tikv"
	"github.com/pingcap/tidb/store/mockstore/unistore/tikv/mvcc"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const maxMessageBytes = 256 << 20

func main() {
	pdAddr := flag.String("pd", "", "address of the PD")
	addr := flag.String("addr", "", "address to serve at, on loopback")
	dir := flag.String("dir", "", "folder for data")
	tapPath := flag.String("tap", "", "file to write every changing request to, as lines of JSON")
	feed := flag.String("cdc", "off", "serve a change feed like that of TiKV v6.5 or v8.5")
	interval := flag.Duration("cdc-interval", time.Second, "how often resolved_ts is sent")
	controlAddr := flag.String("cdc-control", "", "address for tests' orders to the change feed, on loopback")
	flag.Parse()
	listener := listen(*addr)
	// TiKV accepts any number of keep-alive pings.
	pings := keepalive.EnforcementPolicy{MinTime: time.Millisecond, PermitWithoutStream: true}
	var serverOptions = []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.KeepaliveEnforcementPolicy(pings),
	}
	if *tapPath != "" {
		file, err := os.Create(*tapPath)
		must(err)
		serverOptions = append(serverOptions, grpc.UnaryInterceptor((&tap{file: file}).intercept))
	}
	pd, err := unipd.NewClient([]string{*pdAddr}, "unikv")
	must(err)

	var changes *changeData
	switch r := release(*feed); r {
	case releaseOff:
	case releaseV65, releaseV85:
		changes = newChangeData(r, pd)
	default:
		log.Fatal("no such release", zap.String("cdc", *feed))
	}
	service := open(pd, *pdAddr, *addr, *dir, changes)
	server := grpc.NewServer(serverOptions...)
	if changes != nil {
		changes.serve(server, *interval)
	}
	if changes != nil && *controlAddr != "" {
		go changes.control(listen(*controlAddr))
	}
	tikvpb.RegisterTikvServer(server, service)
	deadlock.RegisterDeadlockServer(server, service)
	// TiDB asks it after a request that took too long, and does not use the store until it answers.
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go exitOnSignal()
	must(server.Serve(listener))
}

func listen(addr string) net.Listener {
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		log.Fatal("loopback addresses only", zap.String("addr", addr))
	}
	listener, err := net.Listen("tcp", addr)
	must(err)
	return listener
}

// open makes an empty store with one region and tells PD about it. changes may be nil.
func open(pd unipd.Client, pdAddr, addr, dir string, changes *changeData) *service {
	ctx := context.Background()
	conf := config.DefaultConf
	conf.Server.Raft = false
	conf.Server.StoreAddr, conf.Server.PDAddr = addr, pdAddr
	conf.Engine.DBPath, conf.Engine.ValueThreshold, conf.Engine.VolatileMode = dir, 0, true

	safePoint := &tikv.SafePoint{}
	physical, logical, err := pd.GetTS(ctx)
	must(err)
	bundle := &mvcc.DBBundle{
		DB:        openBadger(dir, safePoint),
		LockStore: lockstore.NewMemStore(8 << 20),
		StateTS:   uint64(physical)<<18 + uint64(logical),
	}
	regions, err := tikv.NewMockRegionManager(bundle, pd.GetClusterID(ctx), tikv.RegionOptions{
		StoreAddr: addr, PDAddr: pdAddr, RegionSize: conf.Server.RegionSize,
	})
	must(err)
	storeID := bootstrap(ctx, pd, regions, addr)

	inner := tikv.NewStandAlongInnerServer(bundle)
	inner.Setup(pd)
	writer := tikv.NewDBWriter(bundle)
	if changes != nil {
		changes.regions = regions
		writer = &watchedWriter{writer, changes}
	}
	store := tikv.NewMVCCStore(&conf, bundle, dir, safePoint, writer, pd)
	store.DeadlockDetectSvr.ChangeRole(tikv.Leader)
	must(inner.Start(pd))
	store.StartDeadlockDetection(false)
	go heartbeatRegions(pd, regions)
	go heartbeatStore(ctx, pd, regions, storeID)
	return &service{tikv.NewServer(regions, store, inner), regions, pd, changes}
}

func openBadger(dir string, safePoint *tikv.SafePoint) *badger.DB {
	folder := filepath.Join(dir, "kv")
	must(os.MkdirAll(folder, 0o700))
	o := badger.DefaultOptions
	o.ManagedTxns = true
	o.Dir, o.ValueDir = folder, folder
	o.ValueThreshold, o.NumCompactors = 0, 1
	o.MaxMemTableSize = 12 << 20
	o.SyncWrites, o.VolatileMode = false, true
	for i := range o.TableBuilderOptions.CompressionPerLevel {
		o.TableBuilderOptions.CompressionPerLevel[i] = options.None
	}
	o.CompactionFilterFactory = safePoint.CreateCompactionFilter
	db, err := badger.Open(o)
	must(err)
	return db
}

// bootstrap makes the cluster's first store and region, by ids that PD gives, and returns the
// store's.
func bootstrap(ctx context.Context, pd unipd.Client, regions *tikv.MockRegionManager, addr string) uint64 {
	var ids [3]uint64
	for i := range ids {
		id, err := pd.AllocID(ctx)
		must(err)
		ids[i] = id
	}
	// Regions split here take their ids from the manager: let it begin behind PD's.
	for regions.AllocID() < ids[2] {
	}
	store := &metapb.Store{
		Id: ids[0], Address: addr, PeerAddress: addr, Version: "6.6.0", StartTimestamp: time.Now().Unix(),
	}
	region := &metapb.Region{
		Id:          ids[1],
		RegionEpoch: &metapb.RegionEpoch{ConfVer: 1, Version: 1},
		Peers:       []*metapb.Peer{{Id: ids[2], StoreId: ids[0]}},
	}
	_, err := pd.Bootstrap(ctx, store, region)
	must(err)
	must(regions.Bootstrap([]*metapb.Store{store}, region))
	must(pd.PutStore(ctx, store))
	return store.Id
}

// heartbeatRegions reports a region when its version has changed, and all of them now and then.
func heartbeatRegions(pd unipd.Client, manager *tikv.MockRegionManager) {
	reported := map[uint64]uint64{}
	for n := 0; ; n++ {
		regions := manager.ScanRegions(nil, nil, 0)
		// Shrunk regions (of a higher version) first, so that PD never takes an overlap for stale.
		sort.Slice(regions, func(i, j int) bool {
			return regions[i].Meta.RegionEpoch.Version > regions[j].Meta.RegionEpoch.Version
		})
		for _, region := range regions {
			version := region.Meta.RegionEpoch.Version
			if reported[region.Meta.Id] == version && n%40 != 0 {
				continue
			}
			reported[region.Meta.Id] = version
			pd.ReportRegion(&pdpb.RegionHeartbeatRequest{
				Region: region.Meta, Leader: region.Leader, ApproximateSize: 1, ApproximateKeys: 1, Term: 6,
			})
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func heartbeatStore(ctx context.Context, pd unipd.Client, regions *tikv.MockRegionManager, storeID uint64) {
	for ; ; time.Sleep(3 * time.Second) {
		err := pd.StoreHeartbeat(ctx, &pdpb.StoreStats{
			StoreId: storeID, Capacity: 100 << 30, Available: 90 << 30,
			RegionCount: uint32(len(regions.ScanRegions(nil, nil, 0))),
		})
		if err != nil {
			log.Warn("store heartbeat", zap.Error(err))
		}
	}
}

func exitOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	os.Exit(0)
}

func must(err error) {
	if err != nil {
		log.Fatal("unikv", zap.Error(err))
	}
}
