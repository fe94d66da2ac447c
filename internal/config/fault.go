package config

import (
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with the configuration.
type Fault struct {
	Source     string `json:"source"` // "/etc/kvd/kvd.toml:12:1", "environment KVD_NAME", "flag --name"
	File       string `json:"file,omitempty"`
	Line       int    `json:"line,omitempty"` // from 1
	Column     int    `json:"column,omitempty"`
	Key        string `json:"key,omitempty"` // the option, if one is to blame
	Problem    string `json:"problem"`
	Suggestion string `json:"suggestion,omitempty"` // what to do instead
}

func (f Fault) Error() string {
	text := f.Source + ": "
	if f.Key != "" && !strings.HasSuffix(f.Source, "--"+f.Key) {
		text += f.Key + ": "
	}
	text += f.Problem
	if f.Suggestion != "" {
		text += "; " + f.Suggestion
	}
	return text
}

// Faults are all that is wrong, in the order of the sources.
type Faults []Fault

func (f Faults) Error() string {
	texts := make([]string, len(f))
	for i, fault := range f {
		texts[i] = fault.Error()
	}
	return strings.Join(texts, "\n")
}

// at is where a fault was found.
type at struct {
	Origin
	file         string
	line, column int
}

func atFlag(name string) at {
	return at{Origin: Origin{FromFlag, "flag --" + name}}
}

func atVariable(name string) at {
	return at{Origin: Origin{FromEnvironment, "environment " + name}}
}

func atFile(file string, p position) at {
	place := file
	if p.line > 0 {
		place = fmt.Sprintf("%s:%d:%d", file, p.line, p.column)
	}
	return at{Origin: Origin{FromFile, place}, file: file, line: p.line, column: p.column}
}

func (a at) fault(key, problem, suggestion string) Fault {
	return Fault{
		Source: a.Place, File: a.file, Line: a.line, Column: a.column,
		Key: key, Problem: problem, Suggestion: suggestion,
	}
}

// ofGRPCProxy is the option of a proxy that etcd's grpc-proxy calls name; "": none.
func ofGRPCProxy(name string) string {
	return map[string]string{
		"namespace":                          "proxy-namespace",
		"resolver-prefix":                    "proxy-resolver-prefix",
		"resolver-ttl":                       "proxy-resolver-ttl",
		"experimental-leasing-prefix":        "proxy-leasing-prefix",
		"experimental-serializable-ordering": "proxy-serializable-ordering",
	}[name]
}

// suggest says what was probably meant by an unknown option.
func suggest(name string, known []string) string {
	plain, old := strings.CutPrefix(name, "experimental-")
	if ours := ofGRPCProxy(name); ours != "" {
		return "that is how etcd's grpc-proxy calls it; write " + ours
	}
	switch {
	case old && slices.Contains(known, plain):
		return "it is no longer experimental; write " + plain
	case old:
		return "experimental options became plain ones, or gates of feature-gates"
	case name == "discovery" || name == "discovery-proxy":
		return "the discovery service of etcd v2 is gone; see discovery-endpoints"
	case name == "enable-v2" || name == "debug" || name == "log-package-levels" || name == "log-output" ||
		name == "proxy-read-timeout" || name == "proxy-write-timeout":
		return "an option of etcd 3.4 that is gone"
	}
	return strings.TrimPrefix(meant(name, known), "; ")
}

// meant is "; did you mean …" for the nearest of the known words, if one is
// near enough to be a misspelling.
func meant(word string, known []string) string {
	best, least := "", 1+max(1, min(3, len(word)/3))
	for _, k := range known {
		if d := distance(word, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to make b of a. Case counts for nothing, and - is _.
func distance(a, b string) int {
	a = strings.ToLower(strings.ReplaceAll(a, "_", "-"))
	b = strings.ToLower(strings.ReplaceAll(b, "_", "-"))
	before, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
