package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/gogo/protobuf/proto"
	"github.com/pingcap/kvproto/pkg/cdcpb"
	"github.com/pingcap/tidb/tablecodec"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// holdable are the things that tests can stop and let go on.
//
//	resolved  no resolved_ts is sent
//	send      nothing is sent on any stream, as by a store that hangs
//	snapshot  scans wait before they read, while live rows are sent already
//	scan      scans wait after they have read, so that live rows overtake theirs
var holdable = map[string]bool{"resolved": true, "send": true, "snapshot": true, "scan": true}

// waitWhileHeld gives up changeData.mu meanwhile.
func (c *changeData) waitWhileHeld(f *feed, what string) {
	for c.held[what] && !f.ended {
		c.changed.Wait()
	}
}

// control serves the orders of tests over HTTP.
//
//	GET  /feeds                    the feeds, as JSON
//	POST /hold?what=, /release?what=  see holdable
//	POST /send?region=             send the cdcpb.Event in the body on the feeds of a region; an
//	                               error ends them, a resolved_ts is sent as the stream has them
//	POST /refuse?region=&times=    answer the next registrations with the cdcpb.Error in the body
//	POST /cut?code=                end all streams with a gRPC status
//	POST /import?table=, /imported?table=  from the first on, rows that are written to a physical
//	                               table are sent by scans only, and by those of v6.5 only
//
// region 0 means all. The answer is the number of feeds or streams that are concerned.
func (c *changeData) control(listener net.Listener) {
	orders := map[string]func(r *http.Request, body []byte) (int, error){
		"/hold":    func(r *http.Request, _ []byte) (int, error) { return c.setHeld(r.URL.Query().Get("what"), true) },
		"/release": func(r *http.Request, _ []byte) (int, error) { return c.setHeld(r.URL.Query().Get("what"), false) },
		"/send": func(r *http.Request, body []byte) (int, error) {
			event := &cdcpb.Event{}
			if err := event.Unmarshal(body); err != nil {
				return 0, err
			}
			return c.inject(number(r, "region"), event), nil
		},
		"/refuse": func(r *http.Request, body []byte) (int, error) {
			return c.refuse(number(r, "region"), number(r, "times"), body)
		},
		"/import":   func(r *http.Request, _ []byte) (int, error) { return c.setImporting(number(r, "table"), true), nil },
		"/imported": func(r *http.Request, _ []byte) (int, error) { return c.setImporting(number(r, "table"), false), nil },
		"/cut":      func(r *http.Request, _ []byte) (int, error) { return c.cut(codes.Code(number(r, "code"))), nil },
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/feeds", func(w http.ResponseWriter, _ *http.Request) { must(json.NewEncoder(w).Encode(c.list())) })
	for path, order := range orders {
		order := order
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			count := 0
			if err == nil {
				count, err = order(r, body)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			fmt.Fprint(w, count)
		})
	}
	must(http.Serve(listener, mux))
}

func number(r *http.Request, name string) uint64 {
	value, _ := strconv.ParseUint(r.URL.Query().Get(name), 10, 64)
	return value
}

func (c *changeData) list() []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	feeds := []map[string]any{}
	for f := range c.feeds {
		feeds = append(feeds, map[string]any{
			"region": f.regionID, "request": f.requestID, "scanned": f.scanned, "ready": f.ready,
			"resolved_ts": f.resolvedTS,
		})
	}
	return feeds
}

func (c *changeData) setHeld(what string, held bool) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !holdable[what] {
		return 0, errors.New("cannot hold " + what)
	}
	c.held[what] = held
	c.changed.Broadcast()
	for s := range c.streams {
		s.wakeUp()
	}
	return len(c.streams), nil
}

func (c *changeData) setImporting(tableID uint64, importing bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history.importing[string(tablecodec.EncodeTablePrefix(int64(tableID)))] = importing
	return len(c.feeds)
}

func (c *changeData) inject(regionID uint64, event *cdcpb.Event) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := 0
	for f := range c.feeds {
		if regionID != 0 && regionID != f.regionID {
			continue
		}
		count++
		if failure := event.GetError(); failure != nil {
			c.end(f, failure)
		} else if ts := event.GetResolvedTs(); ts != 0 {
			sent := f.sentTS
			f.stream.sendResolved(f.requestID, []*feed{f}, ts)
			f.sentTS = sent
		} else {
			f.send(proto.Clone(event).(*cdcpb.Event))
		}
	}
	return count
}

func (c *changeData) refuse(regionID, times uint64, body []byte) (int, error) {
	failure := &cdcpb.Error{}
	if err := failure.Unmarshal(body); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; times > 0; times-- {
		c.refusals[regionID] = append(c.refusals[regionID], failure)
	}
	return len(c.refusals[regionID]), nil
}

// refusal takes an error that a test has ordered for the registration of a region.
func (c *changeData) refusal(regionID uint64) *cdcpb.Error {
	for _, id := range []uint64{regionID, 0} {
		if failures := c.refusals[id]; len(failures) > 0 {
			c.refusals[id] = failures[1:]
			return failures[0]
		}
	}
	return nil
}

func (c *changeData) cut(code codes.Code) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.streams {
		select {
		case s.ending <- status.Error(code, "cut by a test"):
		default:
		}
	}
	return len(c.streams)
}
