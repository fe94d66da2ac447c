package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// tomlList takes a string, or a list of strings, which it joins with commas.
func tomlList(v any) (string, bool) {
	if s, ok := v.(string); ok {
		return s, true
	}
	items, ok := v.([]any)
	if !ok {
		return "", false
	}
	texts := make([]string, len(items))
	for i, item := range items {
		if texts[i], ok = item.(string); !ok {
			return "", false
		}
	}
	return strings.Join(texts, ","), true
}

// set is a comma list of which order and repetition do not matter.
type set struct{ to *[]string }

func (l set) set(s string) error {
	*l.to = nil
	if s != "" {
		*l.to = strings.Split(s, ",")
	}
	slices.Sort(*l.to)
	*l.to = slices.Compact(*l.to)
	return nil
}
func (l set) text() string            { return strings.Join(*l.to, ",") }
func (set) want() string              { return "list" }
func (set) toml(v any) (string, bool) { return tomlList(v) }

// list is a comma list that stays as written.
type list struct{ to *[]string }

func (l list) set(s string) error {
	*l.to = nil
	if s != "" {
		*l.to = strings.Split(s, ",")
	}
	return nil
}
func (l list) text() string            { return strings.Join(*l.to, ",") }
func (list) want() string              { return "list" }
func (list) toml(v any) (string, bool) { return tomlList(v) }

// urls is a comma list of URLs: sorted, each once. An empty text means the
// default, as it does in etcd.
type urls struct {
	to       *[]url.URL
	standard string
}

func (l urls) set(s string) error {
	if s == "" {
		s = l.standard
	}
	if s == "" {
		*l.to = nil
		return nil
	}
	parsed, err := parseURLs(strings.Split(s, ","))
	if err != nil {
		return err
	}
	*l.to = parsed
	return nil
}
func (l urls) text() string            { return urlTexts(*l.to) }
func (urls) want() string              { return "list of URLs" }
func (urls) toml(v any) (string, bool) { return tomlList(v) }

// parseURLs reads URLs with etcd's rules, sorts them and drops repetitions.
func parseURLs(texts []string) ([]url.URL, error) {
	var all []url.URL
	for _, text := range texts {
		u, err := parseURL(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		all = append(all, *u)
	}
	if len(all) == 0 {
		return nil, errors.New("no valid URLs given")
	}
	slices.SortFunc(all, func(a, b url.URL) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(all, func(a, b url.URL) bool { return a.String() == b.String() }), nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "unix", "unixs":
		return u, nil
	case "http", "https":
	default:
		return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", text)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return nil, fmt.Errorf(`URL address does not have the form "host:port": %s`, text)
	}
	if u.Path != "" {
		return nil, fmt.Errorf("URL must not contain a path: %s", text)
	}
	return u, nil
}

func urlTexts(all []url.URL) string {
	texts := make([]string, len(all))
	for i, u := range all {
		texts[i] = u.String()
	}
	return strings.Join(texts, ",")
}

// origins is the list of CORS: URLs, or a star.
type origins struct{ to *[]string }

func (o origins) set(s string) error {
	if s == "*" {
		*o.to = []string{"*"}
		return nil
	}
	parsed, err := parseURLs(strings.Split(s, ","))
	if err != nil {
		return err
	}
	*o.to = strings.Split(urlTexts(parsed), ",")
	return nil
}
func (o origins) text() string            { return strings.Join(*o.to, ",") }
func (origins) want() string              { return "* or list of URLs" }
func (origins) toml(v any) (string, bool) { return tomlList(v) }

// InitialCluster is the members of a new cluster, by name. A name may come
// more than once: a member may have many URLs.
type InitialCluster struct {
	Members map[string][]url.URL // each list sorted
	written string
}

// String is the list as it was written.
func (c InitialCluster) String() string { return c.written }

// ParseInitialCluster reads a list of NAME=URL.
func ParseInitialCluster(text string) (c InitialCluster, err error) {
	err = members{&c}.set(text)
	return c, err
}

// ParseURLs reads a comma list of URLs, with etcd's rules.
func ParseURLs(text string) (all []url.URL, err error) {
	return parseURLs(strings.Split(text, ","))
}

type members struct{ to *InitialCluster }

func (m members) set(s string) error {
	texts := map[string][]string{}
	for pair := range strings.SplitSeq(s, ",") {
		if pair == "" {
			continue
		}
		name, u, _ := strings.Cut(pair, "=")
		texts[name] = append(texts[name], u)
	}
	cluster := InitialCluster{written: s, Members: map[string][]url.URL{}}
	for name, list := range texts {
		parsed, err := parseURLs(list)
		if err != nil {
			return fmt.Errorf("error setting up initial cluster: %w", err)
		}
		cluster.Members[name] = parsed
	}
	*m.to = cluster
	return nil
}
func (m members) text() string            { return m.to.written }
func (members) want() string              { return "list of NAME=URL" }
func (members) toml(v any) (string, bool) { return tomlList(v) }
