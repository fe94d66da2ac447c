package docs

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestArchitectureHasTheFloorsThatAreKept compares the picture of the floors
// with the table that internal/floors_test.go keeps.
func TestArchitectureHasTheFloorsThatAreKept(t *testing.T) {
	kept := floorsKept(t)
	shown := floorsShown(t)
	if len(kept) == 0 || !slices.EqualFunc(kept, shown, slices.Equal) {
		t.Errorf("ARCHITECTURE.md shows, lowest first,\n%q\nthe floors that are kept are\n%q", shown, kept)
	}
}

// floorsKept reads the table out of the test's source, lowest floor first; the
// first word of a floor is its name.
func floorsKept(t *testing.T) (floors [][]string) {
	row := regexp.MustCompile(`^\t\{(.*)\},\s*// (\w+)`)
	for _, line := range lines(t, "../../internal/floors_test.go") {
		if m := row.FindStringSubmatch(line); m != nil {
			floors = append(floors, append([]string{m[2]}, strings.Fields(strings.NewReplacer(`"`, "", ",", " ").Replace(m[1]))...))
		}
	}
	return floors
}

// floorsShown reads the picture.
func floorsShown(t *testing.T) (floors [][]string) {
	row := regexp.MustCompile(`^\d (\w+ .*)$`)
	for _, line := range lines(t, "../../ARCHITECTURE.md") {
		if m := row.FindStringSubmatch(line); m != nil {
			floors = append(floors, strings.Fields(m[1]))
		}
	}
	slices.Reverse(floors)
	return floors
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}
