package sd

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const catalogFile = "../../systemd/catalog/kvd.catalog"

// messages are the MESSAGE_IDs in the code, with the names of their constants.
func messages(t *testing.T) map[string][]string {
	t.Helper()
	id := regexp.MustCompile(`^"([0-9a-f]{32})"$`)
	found := map[string][]string{}
	for _, root := range []string{"../../internal", "../../cmd"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok {
					return true
				}
				for i, value := range spec.Values {
					if lit, ok := value.(*ast.BasicLit); ok {
						if m := id.FindStringSubmatch(lit.Value); m != nil {
							found[m[1]] = append(found[m[1]], path+": "+spec.Names[i].Name)
						}
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// catalog are the entries of the catalog: subject and text.
func catalog(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{}
	for _, part := range strings.Split("\n"+string(b), "\n-- ")[1:] {
		id, text, _ := strings.Cut(part, "\n")
		if _, twice := entries[id]; twice {
			t.Errorf("%s: %s is explained twice", catalogFile, id)
		}
		entries[id] = text
	}
	return entries
}

func TestEveryMessageIsExplainedOnce(t *testing.T) {
	code, explained := messages(t), catalog(t)
	if len(code) < 10 {
		t.Errorf("only %d messages were found in the code", len(code))
	}
	for _, id := range slices.Sorted(maps.Keys(code)) {
		if len(code[id]) > 1 {
			t.Errorf("%s means several things: %q", id, code[id])
		}
		if explained[id] == "" {
			t.Errorf("%s (%s) is not explained in %s", id, code[id][0], catalogFile)
		}
	}
}

func TestExplanationsAreWholeAndNameTheirFields(t *testing.T) {
	whole := regexp.MustCompile(`(?s)^Subject: [^\n]+\nDefined-By: kvd\nDocumentation: man:[a-z.]+\([58]\)\n\n.*\.\n$`)
	at := regexp.MustCompile(`@[A-Z_]+@`)
	for id, text := range catalog(t) {
		if !whole.MatchString(text) {
			t.Errorf("%s: subject, defined-by, documentation and text are not all there:\n%s", id, text)
		}
		for _, line := range strings.Split(text, "\n") {
			if len(line) > 90 {
				t.Errorf("%s: a line is longer than a terminal: %s", id, line)
			}
		}
		if strings.Count(text, "@")%2 != 0 || len(at.FindAllString(text, -1))*2 != strings.Count(text, "@") {
			t.Errorf("%s: a field is not between two @", id)
		}
	}
}
