package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	probeEvery   = 4 * time.Second
	probeTimeout = 4 * time.Second
	reportSick   = 5 * time.Second // between two looks at how the probes went
	reportWell   = 30 * time.Second
	clockDrift   = time.Second // that is worth a warning

	// What the probes are made with, as logs call it.
	probeStreams = "ROUND_TRIPPER_RAFT_MESSAGE"
	probePosts   = "ROUND_TRIPPER_SNAPSHOT"
)

// pulse is the answer to a probe.
type pulse struct {
	OK  bool
	Now time.Time
}

// pulse answers a probe.
func (t *Transport) pulse(w http.ResponseWriter, _ *http.Request) {
	json.NewEncoder(w).Encode(pulse{OK: true, Now: time.Now()}) //nolint:errcheck // the asker has gone
}

// health is how the probes of one kind went.
type health struct {
	well  bool
	err   error
	trip  time.Duration // smoothed
	drift time.Duration // its clock is so much behind
	url   int           // which one is asked
}

func (h *health) saw(sent, now time.Time, its pulse) {
	trip := now.Sub(sent)
	if h.trip == 0 {
		h.trip = trip
	}
	h.trip = h.trip*7/8 + trip/8
	h.drift = now.Sub(its.Now) - h.trip/2
	h.well, h.err = true, nil
}

// probe looks now and then whether the member is there, and how its clock goes.
func (p *peer) probe(name string, over *roads) {
	h := &health{err: errors.New("not asked yet")}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	report := time.NewTimer(reportSick)
	defer report.Stop()
	for {
		select {
		case <-tick.C:
			p.probeOnce(h, over)
		case <-report.C:
			report.Reset(p.report(name, h))
		case <-p.ctx.Done():
			return
		}
	}
}

func (p *peer) probeOnce(h *health, over *roads) {
	urls := p.urls.all()
	sent := time.Now()
	its, err := p.ask(over, urls[h.url%len(urls)])
	if err != nil {
		h.well, h.err = false, err
		h.url++
		return
	}
	h.saw(sent, time.Now(), its)
}

func (p *peer) ask(over *roads, u string) (its pulse, err error) {
	ctx, cancel := context.WithTimeout(p.ctx, probeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u+"/raft/probing", nil)
	if err != nil {
		return its, err
	}
	answer, err := over.RoundTrip(request)
	if err != nil {
		return its, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytes))
	if err != nil {
		return its, err
	}
	if answer.StatusCode != http.StatusOK {
		return its, fmt.Errorf("unexpected status %d", answer.StatusCode)
	}
	if err = json.Unmarshal(text, &its); err == nil && !its.OK {
		err = errors.New("it says that it is not well")
	}
	return its, err
}

// report tells how the probes went, and when to tell next.
func (p *peer) report(name string, h *health) time.Duration {
	next := reportWell
	if !h.well {
		next = reportSick
		p.t.murmur.warn("probes of remote peer fail", p.id.String()+" "+name, "remote-peer-id", p.id.String(),
			"round-tripper-name", name, "rtt", h.trip, "error", h.err)
	}
	if h.well && h.drift > clockDrift {
		p.t.murmur.warn("the clock of remote peer is behind", p.id.String()+" "+name, "remote-peer-id", p.id.String(),
			"round-tripper-name", name, "clock-drift", h.drift, "rtt", h.trip)
	}
	p.count.roundTrip.Observe(h.trip.Seconds())
	return next
}
