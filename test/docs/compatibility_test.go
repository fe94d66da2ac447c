package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTestsOfAdvisoriesExist looks for each test that docs/compatibility.md names
// for one of etcd's security advisories in the package that it names.
func TestTestsOfAdvisoriesExist(t *testing.T) {
	advisory := regexp.MustCompile(`^\| (?:CVE|GHSA)-`)
	part := regexp.MustCompile("`([a-z]+)`: ([^;|]+)")
	name := regexp.MustCompile(`\b(?:Test|Fuzz)\w+`)
	tests := 0
	for _, line := range lines(t, "../../docs/compatibility.md") {
		if !advisory.MatchString(line) {
			continue
		}
		found := part.FindAllStringSubmatch(line, -1)
		if found == nil {
			t.Errorf("no test in %s", line)
		}
		for _, p := range found {
			source := testsOf(t, p[1])
			for _, test := range name.FindAllString(p[2], -1) {
				tests++
				if !strings.Contains(source, "\nfunc "+test+"(") {
					t.Errorf("%s has no %s", p[1], test)
				}
			}
		}
	}
	if tests < 15 {
		t.Errorf("only %d tests are named", tests)
	}
}

// testsOf is the source of a package's tests.
func testsOf(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob("../../internal/" + pkg + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
