package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

const (
	clearScreen = "\x1b[H\x1b[2J"
	hideCursor  = "\x1b[?25l"
	showCursor  = "\x1b[?25h"
)

func (p *program) statusCommand() *cobra.Command {
	var watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status [options]",
		Short: "Shows the whole cluster on one screen",
		Long: `Shows the whole cluster on one screen: its members with their roles and versions,
how far each lags behind the leader, their space, alarms, and when their
certificates end. One endpoint is enough: the others are found through it.

LAG counts log entries that the member has yet to apply. With --watch the screen
is drawn anew every --interval until Ctrl-C. "kvctl doctor" says what to do about
what is seen here.`,
		Example: "  kvctl status --watch",
		GroupID: groupCluster,
		Run: p.does(func(cmd *cobra.Command, args []string) error {
			if err := noArguments("status", args); err != nil {
				return err
			}
			if interval <= 0 {
				return failf(exitBadArgs, "--interval must be more than 0, for example 2s")
			}
			return p.status(cmd, watch, interval)
		}),
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "draw the screen again and again, until Ctrl-C")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "time between two screens of --watch")
	return cmd
}

func (p *program) status(cmd *cobra.Command, watch bool, interval time.Duration) error {
	s, err := p.prepare(cmd, clusterAnswer{})
	if err != nil {
		return err
	}
	s.quietly()
	ctx, cancel := untilSignal()
	defer cancel()
	if !watch {
		v, err := s.survey(ctx)
		if err != nil {
			return err
		}
		return p.print(clusterAnswer{v, time.Now()})
	}
	screen, onScreen := p.out.(*os.File)
	onScreen = onScreen && isTerminal(screen) && p.globals.format != "json"
	if onScreen {
		fmt.Fprint(screen, hideCursor)
		defer fmt.Fprint(screen, showCursor)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := s.statusScreen(ctx, screen, onScreen); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// statusScreen shows the cluster once. That nobody answers is shown, too: it
// may pass.
func (s *session) statusScreen(ctx context.Context, screen *os.File, onScreen bool) error {
	v, err := s.survey(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if !onScreen {
		if err != nil {
			fmt.Fprintln(s.errs, "Error:", err)
			return nil
		}
		return s.print(clusterAnswer{v, time.Now()})
	}
	g := &page{hex: s.globals.hex}
	if err != nil {
		g.linef("%s  no answer from %s\n\n%v", time.Now().Format(time.TimeOnly), strings.Join(s.spec.Endpoints, ", "), err)
		if hint := s.hint(err); hint != "" {
			g.linef("Hint: %s", hint)
		}
	} else {
		clusterAnswer{v, time.Now()}.simple(g)
	}
	return s.write([]byte(clearScreen + fitted(g.String(), widthOf(screen), heightOf(screen))))
}

// fitted cuts text to what a screen shows, so that it does not scroll.
func fitted(text string, width, height int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if height > 1 && len(lines) > height-1 {
		lines = append(lines[:height-2], fmt.Sprintf("… %d more lines", len(lines)-height+2))
	}
	for i := range lines {
		lines[i] = cut(lines[i], width)
	}
	return strings.Join(lines, "\n") + "\n"
}

// clusterAnswer is a survey at a time, to be shown.
type clusterAnswer struct {
	*survey
	now time.Time
}

// health is the cluster's state in a few words.
func (a clusterAnswer) health() string {
	all, up := a.voters()
	quorum := all/2 + 1
	switch {
	case up < quorum:
		return fmt.Sprintf("NO QUORUM: %d of %d voting members answer, %d are needed", up, all, quorum)
	case a.leader() == nil:
		return fmt.Sprintf("NO LEADER: %d of %d voting members answer", up, all)
	case up < all:
		return fmt.Sprintf("DEGRADED: %d of %d voting members answer, %s", up, all, spare(up-quorum))
	}
	return fmt.Sprintf("healthy: all %d voting members answer, %s", all, spare(up-quorum))
}

func spare(n int) string {
	if n == 0 {
		return "none may fail"
	}
	return fmt.Sprintf("%d more may fail", n)
}

func (a clusterAnswer) simple(g *page) {
	g.linef("cluster %x  %s", a.cluster, a.health())
	facts := []string{"revision " + humanize.Comma(a.revision())}
	if l := a.leader(); l != nil {
		facts = append(facts, fmt.Sprintf("term %d", l.status.GetRaftTerm()), "leader "+l.name())
	}
	switch {
	case a.auth.GetEnabled():
		facts = append(facts, "authentication on")
	case a.auth != nil:
		facts = append(facts, "authentication off")
	}
	g.line(strings.Join(append(facts, a.now.Format(time.TimeOnly)), "  "))
	g.line("alarms:", strings.Join(a.alarmWords(), ", "))
	for _, m := range a.members {
		if d := m.status.GetDowngradeInfo(); d.GetEnabled() {
			g.line("downgrade to", d.GetTargetVersion(), "is under way")
			break
		}
	}
	g.line()
	t := tabwriter.NewWriter(g, 0, 0, 2, ' ', 0)
	header, rows := a.table()
	fmt.Fprintln(t, strings.ToUpper(strings.Join(header, "\t")))
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush() //nolint:errcheck // a buffer takes everything
}

// alarmWords are the alarms with the names of their members.
func (a clusterAnswer) alarmWords() []string {
	if a.alarmsErr != nil {
		return []string{"unknown (" + reason(a.alarmsErr) + ")"}
	}
	var words []string
	for _, alarm := range a.alarms {
		words = append(words, fmt.Sprintf("%s of %s", alarm.GetAlarm(), a.nameOf(alarm.GetMemberID())))
	}
	if len(words) == 0 {
		return []string{"none"}
	}
	slices.Sort(words)
	return words
}

func (v *survey) nameOf(id uint64) string {
	for _, m := range v.members {
		if m.GetID() == id {
			return m.name()
		}
	}
	return fmt.Sprintf("%x", id)
}

func (m *surveyed) role() string {
	switch {
	case !m.up():
		return "down"
	case m.leads():
		return "leader"
	case m.GetIsLearner():
		return "learner"
	case m.status.GetLeader() == 0:
		return "leaderless"
	}
	return "follower"
}

func (a clusterAnswer) table() (header []string, rows [][]string) {
	header = []string{"member", "id", "role", "version", "lag", "database", "in use", "quota", "certificate", "endpoint"}
	for _, m := range a.members {
		row := []string{m.name(), fmt.Sprintf("%x", m.GetID()), m.role()}
		if m.up() {
			s := m.status
			lag := "?"
			if n, known := a.lag(m); known {
				lag = strconv.FormatUint(n, 10)
			}
			row = append(row, s.GetVersion(), lag, humanize.Bytes(uint64(s.GetDbSize())), humanize.Bytes(uint64(s.GetDbSizeInUse())), humanize.Bytes(uint64(s.GetDbSizeQuota())))
		} else {
			row = append(row, "-", "-", "-", "-", "-")
		}
		end := m.expiry
		if !m.peers.IsZero() && (end.IsZero() || m.peers.Before(end)) {
			end = m.peers
		}
		where := m.endpoint
		if !m.up() {
			where = strings.TrimSpace(where + "  " + reason(m.err))
		}
		rows = append(rows, append(row, remaining(end, a.now), where))
	}
	return header, rows
}

// remaining is how long it is from now to the end of a certificate.
func remaining(end, now time.Time) string {
	left := end.Sub(now)
	switch {
	case end.IsZero():
		return "-"
	case left <= 0:
		return "EXPIRED"
	case left < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(left.Hours()))
	}
	return fmt.Sprintf("%d days", int(left.Hours()/24))
}

// json has names of its own, in the manner of the API's.
func (a clusterAnswer) json(bool) any {
	type member struct {
		Name        string     `json:"name"`
		ID          string     `json:"id"`
		Role        string     `json:"role"`
		Endpoint    string     `json:"endpoint,omitempty"`
		Error       string     `json:"error,omitempty"`
		Version     string     `json:"version,omitempty"`
		Lag         *uint64    `json:"lag,omitempty"`
		RaftTerm    uint64     `json:"raft_term,omitempty"`
		DBSize      int64      `json:"db_size,omitempty"`
		DBSizeInUse int64      `json:"db_size_in_use,omitempty"`
		DBSizeQuota int64      `json:"db_size_quota,omitempty"`
		CertEnds    *time.Time `json:"certificate_ends,omitempty"`
		PeerEnds    *time.Time `json:"peer_certificate_ends,omitempty"`
	}
	whole := struct {
		ClusterID string   `json:"cluster_id"`
		Health    string   `json:"health"`
		Revision  int64    `json:"revision"`
		Alarms    []string `json:"alarms"`
		Members   []member `json:"members"`
	}{fmt.Sprintf("%x", a.cluster), a.health(), a.revision(), a.alarmWords(), nil}
	when := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	for _, m := range a.members {
		one := member{
			Name: m.GetName(), ID: fmt.Sprintf("%x", m.GetID()), Role: m.role(), Endpoint: m.endpoint,
			Version: m.status.GetVersion(), RaftTerm: m.status.GetRaftTerm(),
			DBSize: m.status.GetDbSize(), DBSizeInUse: m.status.GetDbSizeInUse(), DBSizeQuota: m.status.GetDbSizeQuota(),
			CertEnds: when(m.expiry), PeerEnds: when(m.peers),
		}
		if n, known := a.lag(m); known {
			one.Lag = &n
		}
		if m.err != nil {
			one.Error = reason(m.err)
		}
		whole.Members = append(whole.Members, one)
	}
	return whole
}
