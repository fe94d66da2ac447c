package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kvd/test/oracle"
)

// member returns a member by its name.
func (s *membership) member(name string) *oracle.Member {
	s.t.Helper()
	for _, m := range s.cluster.Members {
		if m.Name == name {
			return m
		}
	}
	s.t.Fatalf("no member %s", name)
	return nil
}

// direct returns our own client of a member.
func (s *membership) direct(m *oracle.Member) *clientv3.Client {
	if s.clients[m] == nil {
		s.clients[m] = s.cluster.Client(s.t, slices.Index(s.cluster.Members, m))
	}
	return s.clients[m]
}

// learnIDs notes the identities of all members that the cluster has now. One
// that has not been started has no name yet: it is known by its peer URL.
func (s *membership) learnIDs() {
	for _, m := range s.cluster.Members {
		select {
		case <-m.Ended():
			continue
		default:
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
		list, err := s.direct(m).MemberList(ctx, clientv3.WithSerializable()) // without a majority, too
		cancel()
		if err != nil {
			continue // it is down
		}
		s.ids["cluster"] = list.Header.GetClusterId()
		for _, m := range list.Members {
			name := m.GetName()
			for word, url := range s.spare {
				if name == "" && slices.Contains(m.GetPeerURLs(), url) && strings.HasPrefix(word, "$peer") {
					name = "m" + min(strings.TrimPrefix(word, "$peer"), "5")
				}
			}
			s.ids[name] = m.GetID()
		}
		return
	}
}

// ledBy waits until one of the members leads and all others know it.
func (s *membership) ledBy(names ...string) {
	s.t.Helper()
	s.poll("the leader "+strings.Join(names, " or "), func(ctx context.Context) error {
		if len(s.ids) == 0 {
			s.learnIDs()
		}
		for i, status := range s.cluster.Statuses(ctx) {
			m := s.cluster.Members[i]
			if status == nil {
				continue // it is down
			}
			if !slices.ContainsFunc(names, func(n string) bool { return s.ids[n] == status.Leader && status.Leader != 0 }) {
				return fmt.Errorf("%s follows %x", m.Name, status.Leader)
			}
		}
		return nil
	})
}

// lead gives the leadership to a member, if it does not have it.
func (s *membership) lead(name string) {
	s.t.Helper()
	s.learnIDs()
	if leader := s.cluster.Leader(); leader.Name != name {
		if _, err := s.direct(leader).MoveLeader(s.t.Context(), s.ids[name]); err != nil {
			s.t.Fatalf("make %s lead: %v", name, err)
		}
	}
	s.ledBy(name)
}

// sees waits until m1 is connected with a member, or is not.
func (s *membership) sees(name string, connected bool) {
	s.t.Helper()
	line := regexp.MustCompile(fmt.Sprintf(`(?m)^etcd_network_active_peers\{Local="%x",Remote="%x"\} (\d)$`, s.ids["m1"], s.ids[name]))
	s.poll(fmt.Sprintf("a view of %s: %v", name, connected), func(ctx context.Context) error {
		_, body, err := s.member("m1").Get(ctx, "/metrics")
		if err != nil {
			return err
		}
		if got := line.FindStringSubmatch(body); got == nil || (got[1] == "1") != connected {
			return fmt.Errorf("metric: %q", got)
		}
		return nil
	})
}

// start runs the member that was added, with the settings that the client
// wrote.
func (s *membership) start(name, added, peer, client string, learner bool) {
	s.t.Helper()
	settings := map[string]string{}
	for line := range strings.Lines(added) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(key, "ETCD_") {
			text, err := strconv.Unquote(value)
			if err != nil {
				s.t.Fatalf("%s: %v", line, err)
			}
			settings[key] = text
		}
	}
	if settings["ETCD_INITIAL_CLUSTER_STATE"] != "existing" || settings["ETCD_INITIAL_ADVERTISE_PEER_URLS"] != s.words(peer) {
		s.t.Fatalf("not the settings of a member that joins: %q", settings)
	}
	m := oracle.Launch(s.t, s.server, oracle.Options{
		Name: settings["ETCD_NAME"], Cluster: settings["ETCD_INITIAL_CLUSTER"], PeerURL: settings["ETCD_INITIAL_ADVERTISE_PEER_URLS"],
		ClientURL: s.spare[client], Existing: true, Learner: learner,
	})
	s.cluster.Members = append(s.cluster.Members, m)
	if err := m.Ready(oracle.ReadyWithin); err != nil {
		s.t.Fatal(err)
	}
	s.cluster.Published(m)
	if m.Name != name {
		s.t.Fatalf("the settings are of %s, not of %s", m.Name, name)
	}
}

// caughtUp waits until a learner has applied what the leader has.
func (s *membership) caughtUp(name string) {
	s.t.Helper()
	s.poll(name+" to catch up", func(ctx context.Context) error {
		var leader, learner uint64
		for i, status := range s.cluster.Statuses(ctx) {
			switch {
			case status.GetHeader().GetMemberId() == status.GetLeader():
				leader = status.GetRaftAppliedIndex()
			case s.cluster.Members[i].Name == name && status.GetStorageVersion() == "3.7.0":
				learner = status.GetRaftAppliedIndex()
			}
		}
		if leader == 0 || learner < leader {
			return fmt.Errorf("it is at %d, the leader at %d", learner, leader)
		}
		return nil
	})
}

// storage waits until all members have a storage version.
func (s *membership) storage(version string) {
	s.t.Helper()
	s.poll("storage version "+version, func(ctx context.Context) error {
		for i, status := range s.cluster.Statuses(ctx) {
			if status.GetStorageVersion() != version {
				return fmt.Errorf("%s has %q", s.cluster.Members[i].Name, status.GetStorageVersion())
			}
		}
		return nil
	})
}

// ends waits for a member that was removed and keeps how its process ended.
func (s *membership) ends(name string) {
	s.t.Helper()
	exit, err := s.member(name).Wait(30 * time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	s.said = append(s.said, said{name + " was removed", exit.String() + "\n"})
}

// words puts names and addresses of this cluster into a command.
func (s *membership) words(command string) string {
	pairs := []string{"$all", strings.Join(s.clientURLs(), ",")}
	for _, word := range slices.Sorted(maps.Keys(s.spare)) {
		pairs = append(pairs, word, s.spare[word])
	}
	for name, id := range s.ids {
		pairs = append(pairs, "$"+name+"id", strconv.FormatUint(id, 16))
	}
	for _, m := range s.cluster.Members {
		n := strings.TrimPrefix(m.Name, "m")
		pairs = append(pairs, "$peer"+n, m.PeerURL)
		pairs = append(pairs, "$"+m.Name, m.ClientURL)
	}
	return strings.NewReplacer(pairs...).Replace(command)
}

func (s *membership) clientURLs() (urls []string) {
	for _, m := range s.cluster.Members {
		urls = append(urls, m.ClientURL)
	}
	return urls
}

// run gives a command to the client and returns both its streams and its
// status.
func (s *membership) run(command string) string {
	s.t.Helper()
	args := strings.Fields(s.words(command))
	if !slices.Contains(args, "--endpoints") {
		args = append(args, "--endpoints", s.cluster.Members[0].ClientURL)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.client.Path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.t.TempDir()}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s %s: %v", s.client.Name, command, err)
	}
	if strings.HasPrefix(command, "member add") {
		s.learnIDs()
	}
	return out.String() + errs.String() + cmd.ProcessState.String() + "\n"
}

// fleeting is what differs between two runs, beside the text of passing.
var fleeting = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\d+(\.\d+)? [kM]?B`), "SIZE"},
	{regexp.MustCompile(`\d+%`), "PART"},
	{regexp.MustCompile(`(true|false), (true|false), \d+, \d+, \d+,`), "$1, $2, TERM, INDEX, APPLIED,"},
	{regexp.MustCompile(`(true|false) │ *(true|false) │ *\d+ │ *\d+ │ *\d+ │`), "$1 │ $2 │ TERM │ INDEX │ APPLIED │"},
	{regexp.MustCompile(`│ +\d+(\.\d+)?(µs|ms|s) +│`), "│ TIME │"},
	{regexp.MustCompile(`"Took" : .*`), `"Took" : TIME`},
	{regexp.MustCompile(`  +`), " "},
	{regexp.MustCompile(`──+`), "─"},
}

// comparable takes out of an output what may differ between two clusters, and
// puts members into the order of their names: the cluster's own is that of
// their identities, which differ.
func (s *membership) comparable(command, text string) string {
	names := map[string]string{}
	for name, id := range s.ids {
		names[strconv.FormatUint(id, 10)] = name
		names[strconv.FormatUint(id, 16)] = name
		if hex := fmt.Sprintf("%16x", id); hex[0] == ' ' { // as clients pad it
			names[hex] = " " + name
		}
	}
	for word, url := range s.spare {
		names[url] = word
	}
	for _, m := range s.cluster.Members {
		names[m.ClientURL] = "$client" + strings.TrimPrefix(m.Name, "m")
		for _, url := range strings.Split(m.PeerURL, ",") {
			if names[url] == "" {
				names[url] = "$peer" + strings.TrimPrefix(m.Name, "m")
			}
		}
	}
	var pairs []string
	for _, from := range slices.Sorted(maps.Keys(names)) {
		pairs = append(pairs, from, names[from])
	}
	text = strings.NewReplacer(pairs...).Replace(text)
	for _, one := range slices.Concat(passing, fleeting) {
		text = one.pattern.ReplaceAllString(text, one.instead)
	}
	return inOrder(command, text)
}

// inOrder sorts the parts of an output that are one for each member.
func inOrder(command, text string) string {
	switch {
	case strings.Contains(command, "-w json"):
		line, rest, _ := strings.Cut(text, "\n")
		return jsonInOrder(line) + "\n" + rest
	case strings.Contains(command, "-w fields"):
		head := ""
		if i := strings.Index(text, `"ID" :`); i > 0 {
			head, text = text[:i], text[i:]
		}
		blocks := strings.SplitAfter(text, "\n\n")
		slices.Sort(blocks[:len(blocks)-1])
		return head + strings.Join(blocks, "")
	case strings.HasPrefix(command, "member add"):
		return initialCluster.ReplaceAllStringFunc(text, func(list string) string {
			parts := strings.Split(strings.Trim(list, `"`), ",")
			slices.Sort(parts)
			return strings.Join(parts, ",")
		})
	case strings.HasPrefix(command, "member list"), strings.Contains(command, "--cluster"):
		lines := strings.SplitAfter(text, "\n")
		slices.Sort(lines)
		return strings.Join(lines, "")
	}
	return text
}

var initialCluster = regexp.MustCompile(`"[^"]*=\$peer[^"]*"`)

// jsonInOrder sorts a list, or the list of members in an object, and leaves
// the bytes of its elements as they are. The names of members, which stand
// for numbers, make it no JSON that a parser would take.
func jsonInOrder(text string) string {
	from, to := 0, len(text)
	if i := strings.Index(text, `"members":[`); i >= 0 {
		from, to = i+len(`"members":`), to-1
	}
	if from >= to || text[from] != '[' || text[to-1] != ']' {
		return text
	}
	var parts []string
	depth, begun := 0, 0
	list := text[from+1:to-1] + ","
	for i, c := range list {
		switch c {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',':
			if depth == 0 {
				parts = append(parts, list[begun:i])
				begun = i + 1
			}
		}
	}
	slices.Sort(parts)
	return text[:from] + "[" + strings.Join(parts, ",") + "]" + text[to:]
}
