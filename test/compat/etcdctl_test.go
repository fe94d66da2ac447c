package compat

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"kvd/test/oracle"
)

// A step is one command of a scripted session. $LEASE stands for the lease
// granted last, $MEMBER for the member asked, $FILE for a file of the session.
type step struct {
	args  string // split at spaces
	stdin string
	lines int // of a command that does not end by itself: how many to read
}

// common is what both etcdctl 3.7.3 and 3.4 know.
var common = []step{
	{args: "version"},
	{args: "put a 1"},
	{args: "put a 2 --prev-kv"},
	{args: "put b", stdin: "from standard input"},
	{args: "put c 3 -w json"},
	{args: "put c 4 -w fields --prev-kv"},
	{args: "put nosuch x --ignore-value"},
	{args: "put nosuch --ignore-value"},
	{args: "put a 5 --lease=1234"},
	{args: "put d/1 one"},
	{args: "put d/2 two"},
	{args: "put d/3 three"},
	{args: "get a"},
	{args: "get a -w json"},
	{args: "get a -w fields"},
	{args: "get a -w table"},
	{args: "get nosuch"},
	{args: "get a --hex"},
	{args: "get a --rev 2"},
	{args: "get a --rev 2 -w json"},
	{args: "get a --rev 9999"},
	{args: "get a --print-value-only"},
	{args: "get d/ --prefix"},
	{args: "get d/ --prefix --keys-only"},
	{args: "get d/ --prefix --count-only -w fields"},
	{args: "get d/ --prefix --limit 2 -w json"},
	{args: "get d/ --prefix --order DESCEND --sort-by KEY"},
	{args: "get d/ --prefix --order ASCEND --sort-by VALUE"},
	{args: "get d/ --prefix --order DESCEND --sort-by MODIFY"},
	{args: "get d/ --prefix --order DESCEND --sort-by CREATE --limit 1"},
	{args: "get d/ --prefix --sort-by nonsense"},
	{args: "get a d/2"},
	{args: "get b --from-key"},
	{args: "get a --consistency s"},
	{args: "get"},
	{args: "del b --prev-kv"},
	{args: "del nosuch"},
	{args: "del d/1 d/3 -w json"},
	{args: "del d/ --prefix -w fields --prev-kv"},
	{args: "txn", stdin: "value(\"a\") = \"2\"\n\nput t yes\nget a\n\nput t no\n\n"},
	{args: "txn", stdin: "mod(\"a\") > \"100\"\n\nput t yes\n\nget t\ndel t\n\n"},
	{args: "txn -w json", stdin: "version(\"t\") = \"0\"\n\nget a\n\nget t\n\n"},
	{args: "txn -w fields", stdin: "create(\"t\") > \"0\"\n\nput t 2\nget t\n\n\n"},
	{args: "txn", stdin: "\n\nput x 1\nput x 2\n\n\n"},
	{args: "endpoint hashkv"},
	{args: "endpoint hashkv -w json"},
	{args: "lease grant 5000"}, // its id is in the hashes from here on
	{args: "lease list"},
	{args: "put l/1 held --lease=$LEASE"},
	{args: "get l/ --prefix -w json"},
	{args: "lease timetolive $LEASE --keys"},
	{args: "lease timetolive 1234"},
	{args: "lease keep-alive --once $LEASE"},
	{args: "lease keep-alive --once 1234"},
	{args: "lease revoke $LEASE"},
	{args: "lease revoke $LEASE"},
	{args: "get l/ --prefix"},
	{args: "lease grant 9000000001"},
	{args: "lease grant x"},
	{args: "watch a --rev 1", lines: 6},
	{args: "watch d/ --prefix --rev 2 --prev-kv -w json", lines: 1},
	{args: "watch a z --rev 3 -w fields", lines: 20},
	{args: "compaction 5"},
	{args: "compaction 5"},
	{args: "compaction 9999 --physical"},
	{args: "compaction 7 --physical"},
	{args: "get a --rev 3"},
	{args: "watch a --rev 2", lines: 0},
	{args: "endpoint health"},
	{args: "endpoint status -w json"},
	{args: "member list"},
	{args: "member list -w json"},
	{args: "alarm list"},
	{args: "alarm disarm"},
	{args: "defrag"},
	{args: "move-leader 1"},
	{args: "move-leader $MEMBER"},
	{args: "lock mine echo held"},
	{args: "nonsense"},
}

// today is what only the client of etcd 3.7 knows.
var today = []step{
	{args: "get l --prefix --stream"},
	{args: "get a --stream -w json"},
	{args: "get a z --min-mod-rev 3 --max-create-rev 40"},
	{args: "endpoint hashkv --rev 9 -w fields"},
	{args: "endpoint status -w fields"},
	{args: "downgrade validate 3.6.0"},
	{args: "downgrade validate 3.5.0"},
	{args: "downgrade cancel"},
	{args: "snapshot save $FILE"},
}

func TestEtcdctlSeesNoDifference(t *testing.T) {
	t.Parallel()
	compareSessions(t, oracle.Etcdctl(t), append(common[:len(common):len(common)], today...))
}

func TestDebiansEtcdctlSeesNoDifference(t *testing.T) {
	t.Parallel()
	old, err := debiansEtcdctl()
	if err != nil && os.Getenv("KVD_TEST_SKIP_DEBIAN") == "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	compareSessions(t, old, common)
}

// kvctl has etcdctl's names, flags and output: the same session, of the
// commands that it knows, with either client against etcd.
func TestKvctlWritesWhatEtcdctlWrites(t *testing.T) {
	t.Parallel()
	judge := &terminal{t: t, client: oracle.Etcdctl(t), member: oracle.Start(t, oracle.Etcd(t), oracle.Options{})}
	judged := &terminal{t: t, client: oracle.Kvctl(t), member: oracle.Start(t, oracle.Etcd(t), oracle.Options{})}
	for _, s := range append(common[:len(common):len(common)], today...) {
		command, _, _ := strings.Cut(s.args, " ")
		switch command {
		case "version", "nonsense":
			continue // kvctl's own
		}
		if a, b := judge.play(s), judged.play(s); a != b {
			t.Errorf("%s\n--- etcdctl\n%s--- kvctl\n%s", s.args, a, b)
		}
	}
}

// debiansEtcdctl finds the client of etcd 3.4 that Debian 12 packages.
func debiansEtcdctl() (oracle.Binary, error) {
	places := []string{os.Getenv("KVD_TEST_ETCDCTL34"), "../.cache/bin/etcdctl-3.4", "/usr/bin/etcdctl"}
	for _, path := range places {
		if path == "" {
			continue
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return oracle.Binary{}, err
		}
		out, err := exec.Command(path, "version").Output()
		if err == nil && strings.Contains(string(out), "etcdctl version: 3.4.") {
			return oracle.Binary{Name: "etcdctl-3.4", Path: path}, nil
		}
	}
	return oracle.Binary{}, fmt.Errorf("no etcdctl of etcd 3.4 in %q: on Debian 12, \"test/etcdctl34 test/.cache/bin/etcdctl-3.4\" "+
		"takes it out of the package etcd-client; or install that, or name another with KVD_TEST_ETCDCTL34; "+
		"KVD_TEST_SKIP_DEBIAN=1 skips this test", places)
}

// compareSessions plays the steps with one client against both servers.
func compareSessions(t *testing.T, client oracle.Binary, steps []step) {
	t.Helper()
	judge := &terminal{t: t, client: client, member: oracle.Start(t, oracle.Etcd(t), oracle.Options{})}
	judged := &terminal{t: t, client: client, member: oracle.Start(t, target(t), oracle.Options{})}
	for _, s := range steps {
		a, b := judge.play(s), judged.play(s)
		if a != b {
			t.Errorf("%s %s\n--- etcd\n%s--- kvd\n%s", client.Name, s.args, a, b)
		}
	}
}

// A terminal plays steps against one server.
type terminal struct {
	t      *testing.T
	client oracle.Binary
	member *oracle.Member
	self   identity
	lease  string
	file   string
}

// play runs one step and returns what is comparable of its output and status.
func (p *terminal) play(s step) string {
	p.t.Helper()
	if p.self == (identity{}) {
		p.self = newSide(p.t, p.member).self
		p.file = filepath.Join(p.t.TempDir(), "snapshot.db")
	}
	args := []string{"--endpoints", p.member.ClientURL}
	for _, arg := range strings.Fields(s.args) {
		switch {
		case strings.Contains(arg, "$LEASE"):
			arg = strings.ReplaceAll(arg, "$LEASE", p.lease)
		case arg == "$MEMBER":
			arg = strconv.FormatUint(p.self.member, 16)
		case arg == "$FILE":
			arg = p.file
		}
		args = append(args, arg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*answerWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.client.Path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.t.TempDir(), "ETCDCTL_API=3"}
	cmd.Stdin = strings.NewReader(s.stdin)
	var out []byte
	var err error
	if s.lines > 0 {
		out, err = firstLines(cmd, s.lines)
	} else {
		out, err = cmd.CombinedOutput()
	}
	text := string(out)
	if m := granted.FindStringSubmatch(text); m != nil {
		p.lease = m[1]
	}
	if err != nil {
		text += err.Error() + "\n"
	}
	return p.comparable(text)
}

// firstLines reads so many lines of a command's output and ends it.
func firstLines(cmd *exec.Cmd, n int) ([]byte, error) {
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var out []byte
	for lines := bufio.NewScanner(pipe); n > 0 && lines.Scan(); n-- {
		out = append(append(out, lines.Bytes()...), '\n')
	}
	cmd.Process.Kill() // or it ended by itself
	cmd.Wait()
	if n > 0 {
		return out, fmt.Errorf("%d lines are missing", n)
	}
	return out, nil
}

var granted = regexp.MustCompile(`lease ([0-9a-f]+) granted`)

// passing is what differs from run to run: times, sizes, positions in the log.
var passing = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`took[ =:]+[0-9.]+(µs|ms|s)`), "took TIME"},
	{regexp.MustCompile(`(took":")[^"]*`), "${1}TIME"},
	{regexp.MustCompile(`"(dbSize|dbSizeInUse|raftIndex|raftAppliedIndex|raftTerm|raft_term)":\d+`), `"$1":N`},
	{regexp.MustCompile(`"(DBSize|DBSizeInUse|RaftIndex|RaftAppliedIndex|RaftTerm|Term)" : \d+`), `"$1" : N`},
	{regexp.MustCompile(`remaining\(\d+s\)`), "remaining(N)"},
	{regexp.MustCompile(`\{"level":"(info|warn)".*\n`), ""}, // the client's log
	{regexp.MustCompile(`(?m)^\{"level.*\n`), ""},
	{regexp.MustCompile(`mine/[0-9a-f]+`), "mine/LEASE"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
}

// comparable takes out of an output what may differ between two servers.
func (p *terminal) comparable(text string) string {
	text = strings.ReplaceAll(text, p.file, "FILE")
	if p.lease != "" {
		id, _ := strconv.ParseInt(p.lease, 16, 64)
		text = strings.ReplaceAll(text, p.lease, "LEASE")
		text = strings.ReplaceAll(text, strconv.FormatInt(id, 10), "LEASE")
	}
	for name, id := range map[string]uint64{"MEMBER": p.self.member, "CLUSTER": p.self.cluster} {
		text = strings.ReplaceAll(text, strconv.FormatUint(id, 10), name)
		text = strings.ReplaceAll(text, strconv.FormatUint(id, 16), name)
	}
	for _, one := range passing {
		text = one.pattern.ReplaceAllString(text, one.instead)
	}
	return text
}
