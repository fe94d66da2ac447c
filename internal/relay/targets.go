package relay

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// target is an endpoint, with what SRV says of it. All but active is fixed.
type target struct {
	host     string
	port     uint16
	verify   bool   // its certificate is looked at before a client is sent there
	named    string // another name that its certificate may have; "": none
	priority uint16 // the lowest is taken
	weight   uint16 // its share among those of one priority
	active   bool   // was reached last time, and not refused; guarded by targets.mu
}

func (t *target) address() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// splitAddress takes an address apart.
func splitAddress(text string) (host string, port uint16, err error) {
	host, digits, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port: %w", text, err)
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port: the port is a number up to 65535", text)
	}
	return host, uint16(n), nil
}

// parseTarget reads an endpoint: host:port, or a URL of a member.
func parseTarget(text string) (*target, error) {
	t := &target{}
	place := text
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("endpoint %q: %w", text, err)
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("endpoint %q: only host:port, http://host:port and https://host:port can be passed on to", text)
		}
		place = u.Host
	}
	var err error
	if t.host, t.port, err = splitAddress(place); err != nil {
		return nil, fmt.Errorf("endpoint %w", err)
	}
	if t.host == "" || t.port == 0 {
		return nil, fmt.Errorf("endpoint %q names no host or no port", text)
	}
	return t, nil
}

// targets are the endpoints, and which of them are active.
type targets struct {
	mu   sync.Mutex
	all  []*target
	turn int
}

// replace makes these the endpoints. One that was there before is as active as it
// was.
func (ts *targets) replace(found []*target) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range found {
		for _, old := range ts.all {
			if old.address() == t.address() {
				t.active = old.active
			}
		}
	}
	ts.all = found
}

// mark notes whether an endpoint is active, and reports whether that is news.
func (ts *targets) mark(t *target, active bool) (news bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	news = t.active != active
	t.active = active
	return news
}

// pick chooses an endpoint that was not tried: among the active ones, else among
// all, of those with the best priority one by weight.
func (ts *targets) pick(tried []*target) *target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, any := range []bool{false, true} {
		var best []*target
		for _, t := range ts.all {
			switch {
			case !t.active && !any || slices.Contains(tried, t):
			case len(best) > 0 && t.priority > best[0].priority:
			case len(best) > 0 && t.priority == best[0].priority:
				best = append(best, t)
			default:
				best = []*target{t}
			}
		}
		if len(best) > 0 {
			return ts.weighLocked(best)
		}
	}
	return nil
}

// zeroShare is how many of a hundred connections go to those of weight 0 beside
// others, as in etcd.
const zeroShare = 1

// weighLocked chooses one of the same priority.
func (ts *targets) weighLocked(best []*target) *target {
	var heavy, light []*target
	sum := 0
	for _, t := range best {
		if t.weight == 0 {
			light = append(light, t)
			continue
		}
		heavy = append(heavy, t)
		sum += int(t.weight)
	}
	if len(heavy) == 0 || len(light) > 0 && rand.IntN(100) < zeroShare {
		ts.turn++
		return light[ts.turn%len(light)]
	}
	at := rand.IntN(sum)
	for _, t := range heavy {
		if at -= int(t.weight); at < 0 {
			return t
		}
	}
	panic("relay: the weights are less than their sum")
}

// counts says how many endpoints are active, of how many.
func (ts *targets) counts() (active, all int) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.all {
		if t.active {
			active++
		}
	}
	return active, len(ts.all)
}

// live reports whether an endpoint is active.
func (ts *targets) live(t *target) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return t.active
}

// list is a copy of what is there now.
func (ts *targets) list() []*target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return slices.Clone(ts.all)
}

// due are those that are to be tried when it is time.
func (ts *targets) due() []*target {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ts.all), func(t *target) bool { return t.active && !t.verify })
}

func (ts *targets) names() []string {
	var all []string
	for _, t := range ts.list() {
		all = append(all, t.address())
	}
	return all
}
