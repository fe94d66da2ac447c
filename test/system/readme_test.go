package system

import (
	"os"
	"strings"
	"testing"
)

// The lines before a block of the README that runs here.
const (
	onBooted = "<!-- tested on a booted host -->"
	withRPM  = "<!-- tested on a booted host with rpm -->"
)

// blocks are the README's behind a mark, in order.
func blocks(t *testing.T, mark string) []string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, part := range strings.Split(string(b), mark+"\n")[1:] {
		text, ok := strings.CutPrefix(part, "```sh\n")
		end := strings.Index(text, "\n```")
		if !ok || end < 0 {
			t.Fatalf("no shell block behind the mark: %.60q", part)
		}
		all = append(all, text[:end])
	}
	return all
}

// TestTheREADMEsServiceChapterHoldsWordForWord runs the chapter's blocks on a
// host that has the clone's dist directory, one after the other.
func TestTheREADMEsServiceChapterHoldsWordForWord(t *testing.T) {
	t.Parallel()
	all := blocks(t, onBooted)
	if len(all) < 5 {
		t.Fatalf("%d blocks are marked", len(all))
	}
	h := newHost(t, "readme")
	h.run("ln -s /packages/dist /root/dist")
	for _, block := range all {
		name, _, _ := strings.Cut(block, "\n")
		h.step(name, func() {
			h.write("/root/block", block)
			out := h.run("sh -e /root/block </dev/null")
			for command, shown := range shows {
				if strings.Contains(block, command) && !strings.Contains(out, shown) {
					h.t.Errorf("%s: nothing of %q in\n%s", command, shown, out)
				}
			}
		})
	}
	h.says("test -e /etc/kvd || test -e /var/lib/kvd || test -e /usr/bin/kvd || echo gone", "gone")
}

// TestTheREADMEsWordsForRPMHold is the same with the other package: installed,
// upgraded and removed.
func TestTheREADMEsWordsForRPMHold(t *testing.T) {
	t.Parallel()
	all := blocks(t, withRPM)
	if len(all) != 3 {
		t.Fatalf("%d blocks are marked", len(all))
	}
	h := newHost(t, "redhat")
	// A Debian's rpm wants to be told that it is meant, and knows none of what is installed.
	h.write("/usr/local/sbin/rpm", "#!/bin/sh\nexec /usr/bin/rpm --nodeps --force-debian \"$@\"\n")
	h.run("chmod +x /usr/local/sbin/rpm; ln -s /packages/previous /root/dist")
	block := func(text string) { h.run("PATH=/usr/local/sbin:$PATH; " + text) }
	block(all[0])
	h.says("systemctl is-active kvd || true; kvd version", "inactive", "kvd Version: 0.0.1\n")
	h.run(configure + "; systemctl start kvd; kvctl put greeting hello; ln -sfn /packages/dist /root/dist")
	block(all[1])
	h.comes("kvctl get greeting; journalctl -u kvd -t kvd -o cat --grep 'starting kvd' | grep -vc version=0.0.1", "hello", "1")
	block(all[2])
	h.says("systemctl is-active kvd || true; test -e /usr/bin/kvd || echo gone; ls /etc/kvd; ls -d /var/lib/kvd/member", "inactive", "gone", "kvd.toml.rpmsave", "/var/lib/kvd/member")
}

// shows is what commands of the chapter print, among other things.
var shows = map[string]string{
	"systemctl status kvd\n":     `Status: "leader, term 2, 1 of 1 members up, `,
	"kvctl put greeting":         "OK",
	"get greeting":               "hello",
	"systemctl start kvd-backup": "is verified",
	"ls /var/backups/kvd":        ".db",
	"journalctl -u kvd\n":        "ready to serve client requests",
	"-o verbose":                 "MESSAGE=",
	"endpoint health":            "is healthy",
}
