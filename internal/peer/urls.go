package peer

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// parseURL checks one peer URL.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("peer URL: %w", err)
	}
	if !slices.Contains([]string{"http", "https", "unix", "unixs"}, u.Scheme) || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("peer URL %q: want http://host:port, https://host:port or unix://name:port", text)
	}
	return u, nil
}

// base is a URL that a path can be appended to.
func base(u string) string { return strings.TrimRight(strings.TrimSpace(u), "/") }

// picker knows a member's URLs and which of them is used. All that is sent to
// the member shares it.
type picker struct {
	mu   sync.Mutex
	urls []string // sorted, never empty, without a slash at the end
	at   int
}

// newPicker takes the URLs that can be used; nil if there is none.
func newPicker(urls []string) *picker {
	if urls = usable(urls); len(urls) == 0 {
		return nil
	}
	return &picker{urls: urls}
}

func usable(urls []string) []string {
	var good []string
	for _, u := range urls {
		if _, err := parseURL(u); err == nil {
			good = append(good, base(u))
		}
	}
	slices.Sort(good)
	return slices.Compact(good)
}

func (p *picker) pick() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.urls[p.at]
}

// failed turns to the next URL, unless somebody else has.
func (p *picker) failed(u string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.urls[p.at] == u {
		p.at = (p.at + 1) % len(p.urls)
	}
}

// replace takes other URLs; the same ones, or none that can be used, change
// nothing.
func (p *picker) replace(urls []string) bool {
	urls = usable(urls)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(urls) == 0 || slices.Equal(urls, p.urls) {
		return false
	}
	p.urls, p.at = urls, 0
	return true
}

// all are the URLs. Read only.
func (p *picker) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.urls
}
