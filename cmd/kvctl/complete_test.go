package main

import (
	"slices"
	"strings"
	"testing"
)

// completion is what the shell is told for a command line that is not done.
func completion(t *testing.T, endpoint string, words ...string) (found []string, directive string) {
	t.Helper()
	args := append([]string{"__complete"}, words...)
	r := runHere(t, talk{env: []string{"KVCTL_ENDPOINTS=" + endpoint}}, args)
	lines := strings.Split(strings.TrimRight(r.out, "\n"), "\n")
	last := len(lines) - 1
	for _, l := range lines[:last] {
		word, _, _ := strings.Cut(l, "\t")
		found = append(found, word)
	}
	return found, lines[last]
}

func TestCompletionAsksTheCluster(t *testing.T) {
	a, _ := newFakes(t)
	a.keys = []string{"-flag", "a b", "config/a", "config/b", "config/sub/x", "config/sub/y", "d", "\xff/x", "\xff\xff/y"}
	const noFiles, noSpaceEither = ":4", ":6"
	for _, c := range []struct {
		line      string
		want      string
		directive string
	}{
		{"get ", "config/ d", noSpaceEither},
		{"get c", "config/", noSpaceEither},
		{"get config/", "config/a config/b config/sub/", noSpaceEither},
		{"get --prefix config/sub/", "config/sub/x config/sub/y", noFiles},
		{"get config/a config/s", "config/sub/", noSpaceEither},
		{"get a b c", "", noFiles},
		{"put d", "d", noFiles},
		{"put d ", "", noFiles},
		{"role grant-permission ", "", noFiles},
		{"role grant-permission r r", "read write readwrite", noFiles},
		{"member remove ", "n1 a11ce b0bb1e5deadbeef c", noFiles},
		{"move-leader ", "n1 a11ce b0bb1e5deadbeef c", noFiles},
		{"lease revoke ", "32695410dcc0ca0 7", noFiles},
		{"get --user=root d", "", noFiles}, // would ask for a password
	} {
		found, directive := completion(t, a.addr, strings.Split(c.line, " ")...)
		if got := strings.Join(found, " "); got != c.want || directive != c.directive {
			t.Errorf("%q completes to %q (%s), not %q (%s)", c.line, got, directive, c.want, c.directive)
		}
	}
	if found, directive := completion(t, "127.0.0.1:1", "get", "d"); len(found) > 0 || directive != noFiles {
		t.Errorf("without a cluster: %q (%s)", found, directive)
	}
}

func TestMembersMayBeNamed(t *testing.T) {
	a, _ := newFakes(t)
	if r := runHere(t, talk{}, []string{"member", "remove", "n1", "--endpoints", a.addr}); r.code != 0 || !strings.Contains(r.out, "a11ce removed from") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.errs)
	}
	if asked := a.take(); !slices.ContainsFunc(asked, func(s string) bool { return strings.Contains(s, "MemberRemove") && strings.Contains(s, "659918") }) {
		t.Errorf("asked: %q", asked)
	}
	for _, word := range []string{"nobody", ""} {
		r := runHere(t, talk{}, []string{"member", "remove", word, "--endpoints", a.addr})
		if r.code != exitBadArgs || !strings.Contains(r.errs, "expecting ID in Hex") {
			t.Errorf("%q: exit %d: %s%s", word, r.code, r.out, r.errs)
		}
		for _, asked := range a.take() {
			if strings.Contains(asked, "MemberRemove") {
				t.Errorf("%q: %s", word, asked)
			}
		}
	}
}
