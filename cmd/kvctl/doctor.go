package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What the doctor holds for normal.
const (
	quotaWarning    = 0.8 // of the quota that the data in use takes
	quotaProblem    = 0.95
	holesWarning    = 0.5 // of the database file
	holesFrom       = 100 << 20
	lagWarning      = 5000 // entries: as many as a member keeps for slow ones
	historyWarning  = 1_000_000
	slowRead        = 100 * time.Millisecond
	expiresSoon     = 30 * 24 * time.Hour
	expiresVerySoon = 7 * 24 * time.Hour
	mostVoters      = 7
)

// severity of a finding.
type severity string

const (
	fine    severity = "ok"
	note    severity = "note"
	warning severity = "warning"
	problem severity = "problem"
)

// finding is one thing the doctor looked at.
type finding struct {
	Severity severity `json:"severity"`
	Check    string   `json:"check"`
	Found    string   `json:"found"`
	Remedy   string   `json:"remedy,omitempty"`
}

func (p *program) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Examines a cluster and says what to do about what it finds",
		Long: `Examines a cluster as an expert would, and says what to do about each thing that is
wrong: members and quorum, leader, lag, versions, alarms, space, compaction,
whether the members' data agrees, latency, certificates, who may do what, and the
addresses that members advertise. It changes nothing.

The exit code is 1 if there is a problem, 0 if there are warnings at most. With
authentication on, use a user who has the role root: others may see less.`,
		GroupID: groupCluster,
		Run: p.does(func(cmd *cobra.Command, args []string) error {
			if err := noArguments("doctor", args); err != nil {
				return err
			}
			return p.doctor(cmd)
		}),
	}
	return cmd
}

func (p *program) doctor(cmd *cobra.Command) error {
	s, err := p.prepare(cmd, diagnosis{})
	if err != nil {
		return err
	}
	s.quietly()
	ctx, cancel := untilSignal()
	defer cancel()
	v, err := s.survey(ctx)
	if err != nil {
		return err
	}
	e := examination{survey: v, now: time.Now(), user: p.globals.user != "" || p.globals.token != "" || p.globals.cert != ""}
	e.reads = s.timeReads(ctx, v)
	e.hashes = s.hashes(ctx, v)
	if p.globals.cert != "" {
		e.own, e.ownErr = ownCertificateEnd(p.globals.cert)
	}
	d := e.diagnose()
	if err := p.print(d); err != nil {
		return err
	}
	if d.count(problem) > 0 {
		return &failure{code: exitError}
	}
	return nil
}

// timed is how long a member took for a read that needs the leader's word.
type timed struct {
	took time.Duration
	err  error
}

// timeReads has each voting member read a key, three times, and takes the
// middle.
func (s *session) timeReads(ctx context.Context, v *survey) map[uint64]timed {
	all := map[uint64]timed{}
	for _, m := range v.members {
		if !m.up() || m.GetIsLearner() {
			continue
		}
		c, err := s.dial(s.log.Named("client"), m.endpoint)
		if err != nil {
			all[m.GetID()] = timed{err: err}
			continue
		}
		all[m.GetID()] = s.timeRead(ctx, c)
		hangUp(c)
	}
	return all
}

func (s *session) timeRead(ctx context.Context, c *clientv3.Client) timed {
	ctx, cancel := context.WithTimeout(ctx, s.globals.commandTimeout)
	defer cancel()
	var took []time.Duration
	for i := range 4 {
		begun := time.Now()
		_, err := c.Get(ctx, "health", clientv3.WithCountOnly())
		if err != nil && !isPermission(err) {
			return timed{err: err}
		}
		if i > 0 { // the first one connects
			took = append(took, time.Since(begun))
		}
	}
	slices.Sort(took)
	return timed{took: took[1]}
}

// hashed is the hash of a member's data up to a revision.
type hashed struct {
	*pb.HashKVResponse
	err error
}

// hashes asks all members for the hash at one revision that all of them have.
func (s *session) hashes(ctx context.Context, v *survey) map[uint64]hashed {
	var oldest int64
	for _, m := range v.members {
		if rev := m.status.GetHeader().GetRevision(); m.up() && (oldest == 0 || rev < oldest) {
			oldest = rev
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 6*s.globals.commandTimeout) // a large store takes its time
	defer cancel()
	shown := s.bar("comparing the members' data", 0, nil)
	defer shown.clear()
	var mu sync.Mutex
	var asking sync.WaitGroup
	all := map[uint64]hashed{}
	for _, m := range v.members {
		if !m.up() {
			continue
		}
		asking.Go(func() {
			var h hashed
			c, err := s.dial(s.log.Named("client"), m.endpoint)
			if err == nil {
				var resp *clientv3.HashKVResponse
				resp, err = c.HashKV(ctx, m.endpoint, oldest)
				h.HashKVResponse = (*pb.HashKVResponse)(resp)
				hangUp(c)
			}
			h.err = err
			mu.Lock()
			defer mu.Unlock()
			all[m.GetID()] = h
		})
	}
	asking.Wait()
	return all
}

// examination is all that the doctor knows. Its verdict depends on nothing else.
type examination struct {
	*survey
	now    time.Time
	user   bool // we said who we are
	reads  map[uint64]timed
	hashes map[uint64]hashed
	own    time.Time // end of our own certificate; zero: we have none
	ownErr error
}

// diagnosis is what the doctor says.
type diagnosis []finding

func (d diagnosis) count(s severity) (n int) {
	for _, f := range d {
		if f.Severity == s {
			n++
		}
	}
	return n
}

func (d diagnosis) json(bool) any { return d }

func (d diagnosis) table() (header []string, rows [][]string) {
	for _, f := range d {
		rows = append(rows, []string{string(f.Severity), f.Check, f.Found, f.Remedy})
	}
	return []string{"severity", "check", "found", "remedy"}, rows
}

func (d diagnosis) simple(g *page) {
	for _, f := range d {
		g.linef("%-8s %-12s %s", f.Severity, f.Check, f.Found)
		if f.Remedy != "" {
			for i, line := range wrapped(f.Remedy, 76) {
				g.linef("%20s%s %s", "", []string{"->", "  "}[min(i, 1)], line)
			}
		}
	}
	g.linef("\n%s, %s, %d checks passed", numbered(d.count(problem), "problem"), numbered(d.count(warning), "warning"), d.count(fine))
}

func numbered(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// wrapped breaks text into lines of at most width, where it has spaces.
func wrapped(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// diagnose puts every check in its order.
func (e *examination) diagnose() (d diagnosis) {
	for _, check := range []struct {
		name string
		look func() []finding
	}{
		{"members", e.checkMembers},
		{"quorum", e.checkQuorum},
		{"leader", e.checkLeader},
		{"lag", e.checkLag},
		{"versions", e.checkVersions},
		{"alarms", e.checkAlarms},
		{"space", e.checkSpace},
		{"compaction", e.checkCompaction},
		{"data", e.checkData},
		{"latency", e.checkLatency},
		{"certificates", e.checkCertificates},
		{"access", e.checkAccess},
		{"addresses", e.checkAddresses},
	} {
		for _, f := range check.look() {
			f.Check = check.name
			d = append(d, f)
		}
	}
	return d
}

func (e *examination) checkMembers() (all []finding) {
	up := 0
	for _, m := range e.members {
		switch {
		case m.up():
			up++
			if m.GetIsLearner() {
				all = append(all, finding{
					note, "", m.name() + " is a learner and has no vote",
					fmt.Sprintf("once it has caught up: kvctl member promote %x", m.GetID()),
				})
			}
			for _, fault := range m.status.GetErrors() {
				if !strings.Contains(fault, "alarm") && !strings.Contains(fault, "memberID") { // checked below
					all = append(all, finding{warning, "", m.name() + " says: " + fault, "its log tells more (journalctl -u kvd)"})
				}
			}
		case m.GetName() == "":
			all = append(all, finding{
				warning, "", fmt.Sprintf("member %x (%s) was added and has never started", m.GetID(), strings.Join(m.GetPeerURLs(), ",")),
				fmt.Sprintf("start it with the variables that \"member add\" printed, or take it out: kvctl member remove %x", m.GetID()),
			})
		default:
			all = append(all, finding{
				problem, "", fmt.Sprintf("%s at %s does not answer: %s", m.name(), m.endpoint, reason(m.err)),
				"on its host: systemctl status kvd; journalctl -u kvd. If it runs: can this computer reach that address, and is it for clients? If its data is lost: kvd member rejoin",
			})
		}
	}
	if up == len(e.members) {
		all = append(all, finding{fine, "", fmt.Sprintf("all %d answer", up), ""})
	}
	return all
}

func (e *examination) checkQuorum() (all []finding) {
	voters, up := e.voters()
	quorum := voters/2 + 1
	switch {
	case up < quorum:
		return []finding{{
			problem, "", fmt.Sprintf("%d of %d voting members answer, %d are needed: nothing can be written", up, voters, quorum),
			"start those that are down, one is enough for a start; only if too many are lost for good, restore a snapshot or start the best of the rest with force-new-cluster",
		}}
	case voters == 1:
		all = append(all, finding{warning, "", "the cluster has one voting member: if it fails, everything does", "add two members: kvctl member add"})
	case voters%2 == 0:
		all = append(all, finding{warning, "", fmt.Sprintf("%d voting members bear no more failures than %d would", voters, voters-1), "add or remove one: an odd number is best"})
	case voters > mostVoters:
		all = append(all, finding{warning, "", fmt.Sprintf("%d voting members make every write slow", voters), "five bear two failures; more are seldom worth it"})
	}
	if up == quorum && voters > 1 && up < voters {
		all = append(all, finding{problem, "", "no other member may fail now", "bring the members back that are down before anything else"})
	}
	if len(all) == 0 {
		all = append(all, finding{fine, "", fmt.Sprintf("%d of %d voting members answer, %s", up, voters, spare(up-quorum)), ""})
	}
	return all
}

func (e *examination) checkLeader() (all []finding) {
	leader := e.leader()
	if leader == nil {
		return []finding{{problem, "", "no member says that it leads", "a majority must be up and reach each other at their peer URLs; elections that go on and on: look at the network and the disks"}}
	}
	for _, m := range e.members {
		if m.up() && m.status.GetLeader() != leader.status.GetHeader().GetMemberId() {
			found := m.name() + " sees no leader"
			if m.status.GetLeader() != 0 {
				found = fmt.Sprintf("%s takes %s for the leader, which is %s", m.name(), e.nameOf(m.status.GetLeader()), leader.name())
			}
			all = append(all, finding{warning, "", found, "ask again; if it stays so, it cannot reach the others at their peer URLs"})
		}
	}
	if len(all) == 0 {
		all = append(all, finding{fine, "", leader.name() + " leads, and all agree", ""})
	}
	return all
}

func (e *examination) checkLag() (all []finding) {
	var most uint64
	for _, m := range e.members {
		n, known := e.lag(m)
		if !known {
			continue
		}
		most = max(most, n)
		if n > lagWarning {
			all = append(all, finding{
				warning, "", fmt.Sprintf("%s is %s log entries behind the leader", m.name(), humanize.Comma(int64(n))),
				"a slow disk, a slow network, or a member that was down: if it does not shrink (kvctl status --watch), look at its disk first",
			})
		}
	}
	if len(all) == 0 && e.leader() != nil {
		all = append(all, finding{fine, "", fmt.Sprintf("at most %d log entries", most), ""})
	}
	return all
}

func (e *examination) checkVersions() (all []finding) {
	versions := map[string][]string{}
	for _, m := range e.members {
		if m.up() {
			versions[m.status.GetVersion()] = append(versions[m.status.GetVersion()], m.name())
		}
	}
	for _, m := range e.members {
		if d := m.status.GetDowngradeInfo(); d.GetEnabled() {
			return []finding{{note, "", "a downgrade to " + d.GetTargetVersion() + " is under way", "replace the members' programs one by one, or end it: kvctl downgrade cancel"}}
		}
	}
	if len(versions) > 1 {
		var words []string
		for v, names := range versions {
			words = append(words, v+": "+strings.Join(names, " "))
		}
		slices.Sort(words)
		return []finding{{warning, "", "members run different versions (" + strings.Join(words, "; ") + ")", "finish the upgrade: the cluster does what its oldest member can"}}
	}
	for v := range versions {
		all = append(all, finding{fine, "", "all run " + v, ""})
	}
	return all
}

func (e *examination) checkAlarms() (all []finding) {
	if e.alarmsErr != nil {
		return []finding{{warning, "", "the alarms are not told: " + reason(e.alarmsErr), e.instead(e.alarmsErr)}}
	}
	for _, a := range e.alarms {
		remedy := "it was not known to this kvctl; \"kvctl alarm disarm\" ends it"
		switch a.GetAlarm() {
		case pb.AlarmType_NOSPACE:
			remedy = "writes are refused until there is space: kvctl compaction <revision>, kvctl defrag --cluster (or a larger quota-backend-bytes), then kvctl alarm disarm"
		case pb.AlarmType_CORRUPT:
			remedy = "its data differs from the others': kvctl endpoint hashkv --cluster tells which is alone; replace that member (kvd member rejoin), then kvctl alarm disarm"
		}
		all = append(all, finding{problem, "", fmt.Sprintf("%s of %s", a.GetAlarm(), e.nameOf(a.GetMemberID())), remedy})
	}
	if len(all) == 0 {
		all = append(all, finding{fine, "", "none", ""})
	}
	return all
}

// instead is what to do where an answer did not come.
func (e *examination) instead(err error) string {
	switch {
	case isPermission(err) && e.user:
		return "ask as a user who has the role root"
	case isPermission(err):
		return "the cluster wants to know who asks: --user root"
	}
	return "see the findings above"
}

// isPermission says whether somebody else might have been answered.
func isPermission(err error) bool {
	return errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty)
}

func serves(address string) (host string, secure bool) {
	u, err := url.Parse(address)
	if err != nil {
		return address, false
	}
	return u.Hostname(), u.Scheme == "https"
}
