package store

import (
	"os"
	"strings"
	"testing"
)

// converse reads a golden of blocks, each of commands, a line of dashes and the
// answer, and compares the answers.
func converse(t *testing.T, path string, answer func(command []string) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		commands, want, ok := strings.Cut(block+"\n", "\n----\n")
		if !ok {
			t.Fatalf("%s: block %d has no dashes", path, i+1)
		}
		var got strings.Builder
		for _, line := range strings.Split(commands, "\n") {
			if !strings.HasPrefix(line, "#") {
				got.WriteString(answer(strings.Fields(line)))
			}
		}
		if got.String() != want {
			t.Errorf("%s: after\n%s\nthe answer is\n%s\nwant\n%s", path, commands, got.String(), want)
		}
	}
}
