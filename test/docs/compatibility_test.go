package docs

import (
	"regexp"
	"slices"
	"testing"
)

// TestOptionsThatAreRefusedAreListed compares the options that the program
// refuses as "not yet" with those that docs/compatibility.md lists.
func TestOptionsThatAreRefusedAreListed(t *testing.T) {
	source := regexp.MustCompile(`^\t\t\t?\{?"([a-z0-9-]+)", (?:func|on)\(`)
	var refused []string
	for _, line := range lines(t, "../../internal/config/notyet.go") {
		if m := source.FindStringSubmatch(line); m != nil {
			refused = append(refused, m[1])
		}
	}
	row := regexp.MustCompile("^  \\| (`[a-z0-9-]+`(?:, `[a-z0-9-]+`)*) \\|")
	name := regexp.MustCompile("`([a-z0-9-]+)`")
	var listed []string
	for _, line := range lines(t, "../../docs/compatibility.md") {
		if m := row.FindStringSubmatch(line); m != nil {
			for _, n := range name.FindAllStringSubmatch(m[1], -1) {
				listed = append(listed, n[1])
			}
		}
	}
	for _, all := range []*[]string{&refused, &listed} {
		slices.Sort(*all)
		*all = slices.Compact(*all)
	}
	if !slices.Equal(refused, listed) {
		t.Errorf("refused are %q\nlisted are %q", refused, listed)
	}
}
