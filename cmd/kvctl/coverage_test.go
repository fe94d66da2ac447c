package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// notCompared are commands, or what begins so, that TestEqualsEtcdctl leaves out.
var notCompared = map[string]string{
	"status": "kvctl's own", "doctor": "kvctl's own", "top": "kvctl's own",
	"options": "its words are kvctl's", "version": "its words are kvctl's",
	"lease grant -w protobuf":      "etcdctl writes the header alone",
	"lease revoke -w protobuf":     "etcdctl writes the header alone",
	"lease list -w protobuf":       "etcdctl writes the header alone",
	"lease timetolive -w protobuf": "etcdctl writes the header alone",
	"lease keep-alive -w protobuf": "etcdctl writes the header alone",
	"member promote -w fields":     "what succeeds cannot be printed; etcdctl has promoted by then",
	"member promote -w table":      "what succeeds cannot be printed; etcdctl has promoted by then",
}

func TestEveryCommandIsComparedInEveryFormat(t *testing.T) {
	compared := map[string]bool{}
	for _, script := range compatScripts() {
		for _, s := range script {
			for _, line := range s.lines() {
				compared[commandIn(t, line)] = true
			}
		}
	}
	for _, command := range commands((&program{}).root()) {
		for _, format := range formats {
			one := command + " -w " + format
			left := notCompared[command] != "" || notCompared[one] != ""
			if compared[one] == left {
				t.Errorf("%s: compared: %v, left out: %v", one, compared[one], left)
			}
		}
	}
}

// commands are all that do something, by their names: "lease grant".
func commands(c *cobra.Command) (names []string) {
	if !c.HasSubCommands() {
		_, name, _ := strings.Cut(c.CommandPath(), " ")
		return []string{name}
	}
	for _, sub := range c.Commands() {
		names = append(names, commands(sub)...)
	}
	return names
}

// commandIn is the command of a line and its format.
func commandIn(t *testing.T, line string) string {
	t.Helper()
	words, err := splitWords(line)
	if err != nil {
		t.Fatal(err)
	}
	cmd, rest, err := (&program{}).root().Find(words)
	if err != nil || !cmd.HasParent() {
		return ""
	}
	_, name, _ := strings.Cut(cmd.CommandPath(), " ")
	if i := slices.Index(rest, "-w"); i >= 0 {
		return name + " -w " + rest[i+1]
	}
	return name + " -w simple"
}
