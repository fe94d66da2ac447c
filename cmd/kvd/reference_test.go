package main

import (
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"kvd/cmd/internal/manual"
)

//go:generate go test -run ^TestTheReferenceIsCurrent$ -update .

var update = flag.Bool("update", false, "write the generated files")

func TestTheReferenceIsCurrent(t *testing.T) {
	const file = "../../docs/commands.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var chapter strings.Builder
	manual.Markdown(&chapter, newTool(io.Discard, io.Discard).root(), 2)
	want, err := manual.Fill(string(page), "kvd", chapter.String())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(page) {
		t.Errorf("%s is not current; run go generate ./cmd/kvd", file)
	}
}
