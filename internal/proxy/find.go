package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	findLimit     = 10 * time.Second // for one answer of a member
	findSoon      = time.Second      // while no endpoint is known
	maxMembers    = 4 << 20          // bytes of one list of members
	stateFileMode = 0o600
)

// Finder tells which client URLs the members have now.
type Finder interface {
	// Find returns the members' client URLs.
	Find(ctx context.Context) ([]string, error)
}

// Fixed are endpoints that do not change.
type Fixed []string

// Find implements Finder.
func (f Fixed) Find(context.Context) ([]string, error) { return f, nil }

// Func is a Finder that asks somebody else, such as DNS.
type Func func(ctx context.Context) ([]string, error)

// Find implements Finder.
func (f Func) Find(ctx context.Context) ([]string, error) { return f(ctx) }

// Peers finds the client URLs by asking the members' peer ports. What it has
// learned last is kept in a file, so that a cluster whose first members are all
// gone is still found.
type Peers struct {
	Client     *http.Client
	Configured []string // peer URLs, asked in any case
	StateFile  string   // "": nothing is kept
	// Source looks peer URLs up where that takes longer, in DNS for one, if none
	// of those known answers; nil: nowhere. It returns when ctx ends.
	Source func(ctx context.Context) ([]string, error)
	Log    *slog.Logger

	learned []string // peer URLs that members told
}

// state is what the state file holds: what etcd's own proxy has kept.
type state struct {
	PeerURLs []string `json:"PeerURLs"`
}

// Load reads the state file. That there is none is no error.
func (p *Peers) Load() error {
	data, err := os.ReadFile(p.StateFile)
	if errors.Is(err, os.ErrNotExist) || p.StateFile == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the proxy's state: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("read the proxy's state in %s: %w; remove the file to begin with the configured cluster alone", p.StateFile, err)
	}
	p.learned = s.PeerURLs
	return nil
}

// Find implements Finder. One goroutine at a time may call it.
func (p *Peers) Find(ctx context.Context) ([]string, error) {
	known := slices.Clone(p.learned)
	for _, u := range p.Configured {
		if !slices.Contains(known, u) {
			known = append(known, u)
		}
	}
	clients, problem := p.askAll(ctx, known)
	if problem == nil || p.Source == nil || ctx.Err() != nil {
		return clients, problem
	}
	told, err := p.Source(ctx)
	if err != nil {
		return nil, errors.Join(problem, err)
	}
	told = slices.DeleteFunc(told, func(u string) bool { return slices.Contains(known, u) })
	clients, err = p.askAll(ctx, told)
	if err != nil {
		return nil, errors.Join(problem, err)
	}
	return clients, nil
}

// askAll asks one peer URL after another until one answers who the members are.
func (p *Peers) askAll(ctx context.Context, urls []string) ([]string, error) {
	if len(urls) == 0 {
		return nil, errors.New("find the members: no peer URL is known")
	}
	var problems []error
	for _, u := range urls {
		members, err := p.ask(ctx, u)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		clients, peers := urlsOf(members)
		if len(clients) == 0 {
			problems = append(problems, fmt.Errorf("%s knows no member with a client URL", u))
			continue
		}
		if !slices.Equal(peers, p.learned) {
			p.learned = peers
			if err := p.save(); err != nil {
				p.Log.Warn("the proxy's state is not saved", "error", err)
			}
		}
		return clients, nil
	}
	return nil, fmt.Errorf("find the members: %w", errors.Join(problems...))
}

type memberOf struct {
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

func (p *Peers) ask(ctx context.Context, at string) ([]memberOf, error) {
	ctx, cancel := context.WithTimeout(ctx, findLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(at, "/")+"/members", nil)
	if err != nil {
		return nil, err
	}
	answer, err := p.Client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxMembers))
	if err != nil {
		return nil, fmt.Errorf("%s/members: %w", at, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s/members: %s", at, answer.Status)
	}
	var members []memberOf
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("%s/members: %w", at, err)
	}
	return members, nil
}

// urlsOf are the members' client URLs in any order, so that not every proxy
// begins with the same, and their peer URLs in order.
func urlsOf(members []memberOf) (clients, peers []string) {
	for _, m := range members {
		clients, peers = append(clients, m.ClientURLs...), append(peers, m.PeerURLs...)
	}
	rand.Shuffle(len(clients), func(i, j int) { clients[i], clients[j] = clients[j], clients[i] })
	slices.Sort(peers)
	return clients, slices.Compact(peers)
}

// save replaces the state file at once or not at all.
func (p *Peers) save() error {
	if p.StateFile == "" {
		return nil
	}
	data, err := json.Marshal(state{p.learned})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.StateFile), 0o700); err != nil {
		return err
	}
	next := p.StateFile + ".bak"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, stateFileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(next, p.StateFile)
}
