package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"kvd/test/oracle"
)

// patient is for a machine that is busy.
var patient = []string{"--dial-timeout=20s", "--command-timeout=20s"}

// What kvctl has for itself works with both servers alike.
func TestKvctlTellsHowAClusterIs(t *testing.T) {
	t.Parallel()
	kvctl := oracle.Kvctl(t)
	for _, server := range []oracle.Binary{target(t), oracle.Etcd(t)} {
		t.Run(server.Name, func(t *testing.T) {
			c := oracle.StartCluster(t, []oracle.Binary{server}, oracle.ClusterOptions{})
			run := func(args string) (string, error) {
				return kvctl.Run(t, append(strings.Fields(args), append(patient, "--endpoints="+c.Members[0].ClientURL)...)...)
			}
			for i := range 7 {
				if out, err := run(fmt.Sprintf("put dir%d/key%d %s", i%2, i, strings.Repeat("x", 10*i+1))); err != nil {
					t.Fatal(out, err)
				}
			}
			checkStatus(t, run, 3, "healthy: all 3 voting members answer, 1 more may fail")
			checkTop(t, run)
			out, err := run("doctor")
			if err != nil || !strings.Contains(out, "3 members have the same") || !strings.Contains(out, "0 problems") {
				t.Errorf("doctor (%v):\n%s", err, out)
			}

			lost := c.Members[2]
			lost.Kill()
			checkStatus(t, run, 2, "DEGRADED: 2 of 3 voting members answer, none may fail")
			out, err = run("doctor")
			if err == nil || !strings.Contains(out, "m3 at "+lost.ClientURL+" does not answer: connection refused") {
				t.Errorf("doctor, one member down (%v):\n%s", err, out)
			}
		})
	}
}

func checkStatus(t *testing.T, run func(string) (string, error), up int, health string) {
	t.Helper()
	out, err := run("status -w json")
	var got struct {
		Health   string
		Revision int64
		Alarms   []string
		Members  []struct {
			Name, Role, Error string
			Lag               *uint64
		}
	}
	if err != nil || json.Unmarshal([]byte(out), &got) != nil {
		t.Fatalf("status (%v): %s", err, out)
	}
	roles := map[string]int{}
	for _, m := range got.Members {
		roles[m.Role]++
		if (m.Role == "down") != (m.Error != "") || m.Role == "leader" && m.Lag == nil {
			t.Errorf("member %+v", m)
		}
	}
	// A leader that was lost may not have been replaced yet.
	if got.Health != health && roles["leader"] == 1 || roles["down"] != 3-up || got.Revision != 8 || got.Alarms[0] != "none" {
		t.Errorf("status: %+v", got)
	}
}

func checkTop(t *testing.T, run func(string) (string, error)) {
	t.Helper()
	out, err := run("top --time 0 --count 2 -w json")
	var got struct {
		Keys     int64
		Prefixes []struct {
			Prefix       string
			Count, Bytes int64
		} `json:"largest_prefixes"`
		Largest []struct{ Key string } `json:"largest_keys"`
	}
	if err != nil || json.Unmarshal([]byte(out), &got) != nil {
		t.Fatalf("top (%v): %s", err, out)
	}
	if text := fmt.Sprint(got); text != "{7 [{dir0/ 4 160} {dir1/ 3 120}] [{dir0/key6} {dir1/key5}]}" {
		t.Errorf("top: %s", text)
	}
}

// make-mirror of either client leaves the same at the destination, whichever
// server is at which end.
func TestMirrorsAreEtcdctls(t *testing.T) {
	t.Parallel()
	kvctl, etcdctl := oracle.Kvctl(t), oracle.Etcdctl(t)
	source := oracle.Start(t, target(t), oracle.Options{})
	kvctl.MustRun(t, append(patient, "put", "before", "1", "--endpoints", source.ClientURL)...)
	for i := range 300 {
		kvctl.MustRun(t, append(patient, "put", fmt.Sprintf("app/%d", i%10), fmt.Sprint(i), "--endpoints", source.ClientURL)...)
		if i == 20 {
			break
		}
	}
	for _, flags := range []string{"", "--prefix=app/", "--prefix=app/ --dest-prefix=copy/", "--prefix=app/ --no-dest-prefix", "--dest-prefix=x --max-txn-ops=2"} {
		ends := map[string]*oracle.Member{}
		for _, m := range []struct {
			client oracle.Binary
			server oracle.Binary
		}{{etcdctl, oracle.Etcd(t)}, {kvctl, target(t)}} {
			to := oracle.Start(t, m.server, oracle.Options{})
			ends[m.client.Name] = to
			ctx, cancel := context.WithCancel(t.Context())
			args := append([]string{"make-mirror", to.ClientURL, "--endpoints", source.ClientURL}, strings.Fields(flags)...)
			cmd := exec.CommandContext(ctx, m.client.Path, append(args, "--dial-timeout=20s")...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				cancel()
				_ = cmd.Wait() // it was killed
			})
		}
		content := func(m *oracle.Member) string {
			return kvctl.MustRun(t, append(patient, "get", "", "--prefix", "--endpoints", m.ClientURL)...)
		}
		same := func(word string) {
			t.Helper()
			for over := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
				a, b := content(ends[etcdctl.Name]), content(ends[kvctl.Name])
				if a == b && strings.Contains(a, word) {
					return
				}
				if time.Now().After(over) {
					t.Fatalf("%q\n--- etcdctl has mirrored\n%s--- kvctl has mirrored\n%s", flags, a, b)
				}
			}
		}
		same("9\n")
		for _, line := range []string{"put app/new 1", "del app/3", "put other 2", "del app/7 app/9 --range", "put app/last last" + fmt.Sprint(len(flags))} {
			kvctl.MustRun(t, append(strings.SplitN(line, " ", 4), append(patient, "--endpoints", source.ClientURL)...)...)
		}
		same("last" + fmt.Sprint(len(flags)) + "\n")
		for i := range 10 {
			kvctl.MustRun(t, append(patient, "put", fmt.Sprintf("app/%d", i), "9", "--endpoints", source.ClientURL)...)
		}
	}
}
