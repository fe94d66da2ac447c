package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// jsonFlag makes Check and Explain answer in JSON. It is no option.
const jsonFlag = "--json"

// Check says what is wrong with a configuration, in text or, with --json
// among args, in JSON; and how the process should end: 0 if the daemon would
// start with it, else ExitStatus. The arguments are those of LoadAside.
func Check(args, environ []string, readFile func(string) ([]byte, error)) (text string, status int) {
	args, asJSON := cutJSON(args)
	c, err := LoadAside(args, environ, readFile)
	verdict := struct {
		Valid    bool     `json:"valid"`
		File     string   `json:"file,omitempty"`
		Faults   Faults   `json:"faults,omitempty"`
		Warnings []string `json:"warnings,omitempty"`
	}{Valid: err == nil}
	if err != nil && !errors.As(err, &verdict.Faults) {
		return usage(), 0
	}
	if c != nil {
		verdict.File, verdict.Warnings = c.File, c.Warnings
	}
	if !verdict.Valid {
		status = ExitStatus
	}
	if asJSON {
		return toJSON(verdict), status
	}
	var b strings.Builder
	for _, fault := range verdict.Faults {
		fmt.Fprintf(&b, "fault: %v\n", fault)
	}
	for _, warning := range verdict.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	switch {
	case !verdict.Valid:
		fmt.Fprintf(&b, "the configuration is refused\n")
	case verdict.File != "":
		fmt.Fprintf(&b, "the configuration is valid (%s)\n", verdict.File)
	default:
		fmt.Fprintf(&b, "the configuration is valid (no file)\n")
	}
	return b.String(), status
}

// Explain says which value each option has and where it comes from, as Check
// does: in text or in JSON. A configuration with faults is answered by Check.
func Explain(args, environ []string, readFile func(string) ([]byte, error)) (text string, status int) {
	plain, asJSON := cutJSON(args)
	c, err := LoadAside(plain, environ, readFile)
	if err != nil {
		return Check(args, environ, readFile)
	}
	type row struct {
		Section string `json:"section"`
		Key     string `json:"key"`
		Value   string `json:"value"`
		Origin  string `json:"origin"`
	}
	var rows []row
	for _, o := range inSections() {
		if o.is(outside) {
			continue
		}
		v := o.bind(c)
		text := v.text()
		if e, ok := v.(interface{ effective() string }); ok {
			text = e.effective()
		}
		rows = append(rows, row{string(o.section), o.name, o.shown(text), c.Origin(o.name).String()})
	}
	if asJSON {
		return toJSON(struct {
			File     string   `json:"file,omitempty"`
			Options  []row    `json:"options"`
			Warnings []string `json:"warnings,omitempty"`
		}{c.File, rows, c.Warnings}), 0
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OPTION\tVALUE\tORIGIN")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Key, cmp.Or(r.Value, `""`), r.Origin)
	}
	w.Flush() //nolint:errcheck // a strings.Builder does not fail
	return b.String(), 0
}

// cutJSON takes --json out of the arguments.
func cutJSON(args []string) (rest []string, found bool) {
	rest = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == jsonFlag })
	return rest, len(rest) < len(args)
}

func toJSON(v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("config: %v", err)) // strings and booleans always encode
	}
	return string(text) + "\n"
}

// inSections is the table by section, as it is shown.
func inSections() []*option {
	var all []*option
	for _, s := range sections() {
		for _, o := range table() {
			if o.section == s {
				all = append(all, o)
			}
		}
	}
	return all
}
