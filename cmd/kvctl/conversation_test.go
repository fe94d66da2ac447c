package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/grpclog"
)

var update = flag.Bool("update", false, "write the goldens anew; those of etcdctl by running the one that KVD_TEST_ETCDCTL names")

// The goldens in testdata/etcdctl are what a real etcdctl printed, and asked
// for, in a conversation with the fake members of fake_test.go; those in
// testdata/kvctl are where kvctl means to differ. A case is
//
//	% KVCTL_USER=x         environment
//	$ get a -w json        command line; $A and $B are the members
//	< a line               standard input
//	> A.Range {…}          what a member was asked
//	| {…}                  standard output (quoted when it is not text)
//	! Error: …             standard error
//	= 1                    exit code, when it is not 0
type talk struct {
	comment, env []string
	source       string   // the command line as it was written
	words        []string // and cut into words
	input        []string
	text         string // the whole case
}

type told struct {
	out, errs string
	code      int
}

func TestOutputAndRequestsEqualEtcdctls(t *testing.T) {
	etcdctl := os.Getenv("KVD_TEST_ETCDCTL")
	if *update && etcdctl == "" {
		t.Fatal("-update needs KVD_TEST_ETCDCTL, the etcdctl 3.7.3 to ask")
	}
	for _, golden := range goldens(t, "testdata/etcdctl/*.golden") {
		t.Run(filepath.Base(golden), func(t *testing.T) {
			if etcdctl != "" {
				checkGolden(t, golden, *update, func(t *testing.T, k talk, args []string) told {
					return runProcess(t, k, args, etcdctl)
				})
			}
			checkGolden(t, golden, false, runHere)
		})
	}
}

func TestOwnBehaviour(t *testing.T) {
	for _, golden := range goldens(t, "testdata/kvctl/*.golden") {
		t.Run(filepath.Base(golden), func(t *testing.T) { checkGolden(t, golden, *update, runHere) })
	}
}

func goldens(t *testing.T, pattern string) []string {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(here, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens at %s (%v)", pattern, err)
	}
	return files
}

// checkGolden has run hold the conversation in the file and compares, or
// writes it.
func checkGolden(t *testing.T, file string, write bool, run func(*testing.T, talk, []string) told) {
	t.Helper()
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a, b := newFakes(t)
	t.Chdir(t.TempDir()) // for commands that write files
	var got strings.Builder
	for _, k := range parseTalks(string(want)) {
		text := k.hold(t, a, b, "", run)
		for _, longer := range patience {
			if text != k.text && slices.ContainsFunc(k.words, hurry.MatchString) {
				text = k.hold(t, a, b, longer, run)
			}
		}
		got.WriteString(text)
	}
	if got.String() == string(want) {
		return
	}
	if write {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("differs from %s:\n%s", filepath.Base(file), difference(string(want), got.String()))
}

// hurry is the --command-timeout of cases in which somebody does not answer. A
// busy machine may need longer for what does answer; then it is given patience.
var (
	hurry    = regexp.MustCompile(`\b[1-9][05]0ms$`)
	patience = []string{"1s", "10s"}
)

// hold has run hold one conversation with a and b and returns what came of it.
func (k talk) hold(t *testing.T, a, b *fake, longer string, run func(*testing.T, talk, []string) told) string {
	t.Helper()
	var args []string
	for _, word := range k.words {
		if longer != "" {
			word = hurry.ReplaceAllString(word, longer)
		}
		word = strings.ReplaceAll(word, "$A", a.addr)
		args = append(args, strings.ReplaceAll(word, "$B", b.addr))
	}
	if !slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, "--endpoints") }) &&
		!slices.ContainsFunc(k.env, func(s string) bool { return strings.Contains(s, "_ENDPOINTS=") }) {
		args = append([]string{"--endpoints", a.addr}, args...)
	}
	r := run(t, k, args)
	asked := append(a.take(), b.take()...)
	return k.format(asked, r, strings.NewReplacer(a.addr, "$A", b.addr, "$B"))
}

// difference shows the first lines where two texts part.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			from := max(0, i-4)
			return fmt.Sprintf("at line %d\n--- want\n%s\n--- got\n%s", i+1,
				strings.Join(w[from:min(len(w), i+6)], "\n"), strings.Join(g[from:min(len(g), i+6)], "\n"))
		}
	}
	return fmt.Sprintf("%d lines wanted, %d got", len(w), len(g))
}

func parseTalks(text string) (talks []talk) {
	var next talk
	begun := 0 // where the case begins that is read
	at := 0
	for line := range strings.Lines(text) {
		at += len(line)
		line = strings.TrimSuffix(line, "\n")
		mark, rest, _ := strings.Cut(line, " ")
		switch mark {
		case "#":
			next.comment = append(next.comment, rest)
		case "%":
			next.env = append(next.env, rest)
		case "$":
			words, err := splitWords(rest)
			if err != nil {
				panic(err)
			}
			next.source, next.words = rest, words
			talks = append(talks, next)
			next = talk{}
		case "<":
			talks[len(talks)-1].input = append(talks[len(talks)-1].input, rest)
		case "": // the end of a case
			talks[len(talks)-1].text = text[begun:at]
			begun = at
		}
	}
	return talks
}

func (k talk) stdin() string {
	if len(k.input) == 0 {
		return ""
	}
	return strings.Join(k.input, "\n") + "\n"
}

func (k talk) format(asked []string, r told, places *strings.Replacer) string {
	var s strings.Builder
	put := func(mark string, lines ...string) {
		for _, l := range lines {
			s.WriteString(strings.TrimRight(mark+" "+l, " ") + "\n")
		}
	}
	put("#", k.comment...)
	put("%", k.env...)
	put("$", k.source)
	put("<", k.input...)
	for _, a := range asked {
		put(">", places.Replace(a))
	}
	put("|", outputLines(places.Replace(steady(r.out)))...)
	put("!", outputLines(places.Replace(steady(plainErrors(r.errs))))...)
	if r.code != 0 {
		put("=", strconv.Itoa(r.code))
	}
	return s.String() + "\n"
}

func outputLines(text string) []string {
	if text == "" {
		return nil
	}
	binary := !utf8.ValidString(text) || !strings.HasSuffix(text, "\n") || strings.ContainsAny(text, "\x00\r\x7f") || strings.Contains(text, " \n")
	if binary {
		return []string{strconv.Quote(text)}
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

var (
	duration  = regexp.MustCompile(`\d+(\.\d+)?(ns|µs|ms|s)\b`)
	tookField = regexp.MustCompile(`(took = |took |"took":"|"Took" : )` + duration.String())
	tookCell  = regexp.MustCompile(`│\s+` + duration.String() + `\s+│`)
	runs      = regexp.MustCompile(`─+|  +`)
	// unready is what the client library says when a call's time is over before
	// there is a connection: one or the other, by which timer was first.
	unready = regexp.MustCompile(`desc = (latest balancer error: connection error: desc = "transport: Error while dialing: [^"]*"|context deadline exceeded while waiting for connections to become ready)`)
)

// steady takes out what no two runs share: how long something took, and the
// width of a table's column that shows it.
func steady(text string) string {
	text = barOfWork.ReplaceAllString(text, "")
	text = tookField.ReplaceAllString(text, "${1}TIME")
	if strings.Contains(text, "TOOK") {
		text = tookCell.ReplaceAllString(text, "│ TIME │")
		text = runs.ReplaceAllStringFunc(text, func(s string) string {
			r, _ := utf8.DecodeRuneInString(s)
			return string(r)
		})
	}
	return text
}

// barOfWork is what a bar wrote and took away again.
var barOfWork = regexp.MustCompile(`(?:\r\x1b\[K[^\r]*)+\r\x1b\[K`)

// plainErrors shortens the client library's JSON log lines to what they say,
// and takes out the usage that follows a mistake: kvctl's has its own words.
func plainErrors(text string) string {
	var out strings.Builder
	usage := false
	for line := range strings.Lines(text) {
		usage = usage && !strings.HasPrefix(line, "Error:") || strings.HasPrefix(line, "Usage:")
		var entry map[string]any
		switch {
		case usage:
		case strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &entry) == nil:
			fmt.Fprintf(&out, "(%s) %s", entry["level"], entry["msg"])
			for _, field := range []string{"error", "environment-variable", "path", "size"} {
				if v, ok := entry[field]; ok {
					fmt.Fprintf(&out, ": %s", unready.ReplaceAllString(fmt.Sprint(v), "desc = not connected"))
				}
			}
			out.WriteString("\n")
		default:
			out.WriteString(line)
		}
	}
	return out.String()
}

// runHere runs kvctl in this process.
func runHere(_ *testing.T, k talk, args []string) told {
	var out, errs bytes.Buffer
	p := &program{
		in: strings.NewReader(k.stdin()), out: &out, errs: &errs, environ: k.env,
		grpcLog: func(grpclog.LoggerV2) {},
	}
	if slices.Contains(k.env, "TERMINAL=1") {
		p.terminal = true
	}
	code := p.run(args)
	return told{out.String(), errs.String(), code}
}

// ourNames are what etcdctl calls otherwise.
var ourNames = strings.NewReplacer(`"etcdctl`, `"kvctl`, "'etcdctl ", "'kvctl ", "ETCDCTL_", "KVCTL_")

// runProcess runs another program with the same arguments, under etcdctl's
// names for the environment.
func runProcess(t *testing.T, k talk, args []string, path string) told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	for _, e := range k.env {
		cmd.Env = append(cmd.Env, strings.Replace(e, "KVCTL_", "ETCDCTL_", 1))
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(k.stdin())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %q: %v", path, args, err)
	}
	return told{out.String(), ourNames.Replace(errs.String()), cmd.ProcessState.ExitCode()}
}
