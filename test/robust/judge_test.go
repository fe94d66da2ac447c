package robust

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	decidesIn = 30 * time.Second // of porcupine, for a group
	shown     = 10               // faults of one kind
)

// An account is all that the users of a cluster saw of it from one revision
// on: what is judged.
type account struct {
	From, Last int64 // the first revision after the beginning, and the last
	Begin      [groups][inGroup]held
	Calls      []*call
	Changes    map[int64][]change // as the watcher that asks any member was told
	Tenancies  []*tenancy         `json:",omitempty"`
	Lapsed     map[string]time.Duration
}

// A state is a group as of a revision: no change of it lies between its own
// last and that.
type state struct {
	Revision int64
	Keys     [inGroup]held
}

// step is what a call makes of a state, and how its answer does not follow
// from it, if so.
func (s state) step(c *call) (then state, fault string) {
	if c.If != nil && c.Succeeded != (s.Keys[c.If.Key].Mod == c.If.Mod) {
		return s, fmt.Sprintf("compared %d with %d and said %t", s.Keys[c.If.Key].Mod, c.If.Mod, c.Succeeded)
	}
	then = s
	changes, gets, deletes := false, 0, 0
	for _, a := range c.taken() {
		switch a.Do {
		case "put":
			was := then.Keys[a.Key]
			if was.Version == 0 {
				was.Create = c.Revision
			}
			then.Keys[a.Key] = held{Value: a.Value, Create: was.Create, Mod: c.Revision, Version: was.Version + 1}
			changes = true
		case "delete":
			gone := int64(0)
			if then.Keys[a.Key].Version > 0 {
				then.Keys[a.Key], gone, changes = held{}, 1, true
			}
			if deletes < len(c.Deleted) && c.Deleted[deletes] != gone && c.answered() {
				return s, fmt.Sprintf("deleted %d, not %d", gone, c.Deleted[deletes])
			}
			deletes++
		default:
			if c.answered() {
				if fault := then.shows(a.Key, c.Got[gets]); fault != "" {
					return s, fault
				}
			}
			gets++
		}
	}
	if c.Revision < s.Revision || changes && c.Revision == s.Revision {
		return s, fmt.Sprintf("done at %d after %d", c.Revision, s.Revision)
	}
	then.Revision = c.Revision
	return then, ""
}

// shows returns how a get's answer differs from the state.
func (s state) shows(key int, got [inGroup]held) string {
	for i := range s.Keys {
		if (key == whole || key == i) && s.Keys[i] != got[i] {
			return fmt.Sprintf("key %d was %+v, got %+v", i, s.Keys[i], got[i])
		}
	}
	return ""
}

// model is a group for porcupine.
func model(begin state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return begin },
		Step: func(s, in, _ any) (bool, any) {
			then, fault := s.(state).step(in.(*call))
			return fault == "", then
		},
		DescribeOperation: func(in, _ any) string { return in.(*call).String() },
		DescribeState: func(s any) string {
			at := s.(state)
			text := fmt.Sprintf("%d:", at.Revision)
			for _, k := range at.Keys {
				text += fmt.Sprintf(" %s@%d", k.Value, k.Mod)
			}
			return text
		},
	}
}

// String is a call in a line.
func (c *call) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "c%d m%d g%d", c.Client, c.Member, c.Group)
	if c.Serializable {
		text.WriteString(" serializable")
	}
	if c.If != nil {
		fmt.Fprintf(&text, " if %d@%d: %t", c.If.Key, c.If.Mod, c.Succeeded)
	}
	for _, a := range c.taken() {
		fmt.Fprintf(&text, " %s %d %s", a.Do, a.Key, a.Value)
	}
	for _, got := range c.Got {
		text.WriteString(" [")
		for _, k := range got {
			fmt.Fprintf(&text, " %s@%d", k.Value, k.Mod)
		}
		text.WriteString(" ]")
	}
	fmt.Fprintf(&text, " at %d, %s to ", c.Revision, c.Start)
	if c.answered() {
		fmt.Fprint(&text, c.End)
	} else {
		text.WriteString("?")
	}
	return text.String()
}

// faults is all that is wrong with an account. It settles what was in doubt
// first: afterwards Calls are those that were done.
func (a *account) faults() (faults []string) {
	faults = append(faults, a.contiguous()...)
	faults = append(faults, a.settle()...)
	faults = append(faults, a.explained()...)
	faults = append(faults, a.inTime()...)
	faults = append(faults, a.replayed()...)
	return append(faults, a.kept()...)
}

// contiguous checks that the watch told of every revision.
func (a *account) contiguous() (faults []string) {
	for at := a.From; at <= a.Last; at++ {
		if len(a.Changes[at]) == 0 {
			faults = append(faults, fmt.Sprintf("revision %d was not told", at))
		}
	}
	return few(faults)
}

// settle finds out by the watch which of the calls without an answer were done,
// and drops the others. A value has one author, so a revision with puts has
// one call that may have made it; one that only deletes may be any of the
// deletes of that key that began before it, and which of them does not matter.
func (a *account) settle() (faults []string) {
	made := map[string]int64{}    // value to revision
	orphans := map[int64]change{} // revisions of a single delete that nobody was told of
	for at, changes := range a.Changes {
		for _, one := range changes {
			if _, _, ours := placeOf([]byte(one.Key)); !ours {
				continue
			}
			if one.Delete {
				orphans[at] = one
				continue
			}
			if was, twice := made[one.Value]; twice {
				faults = append(faults, fmt.Sprintf("%s was put twice, at %d and %d", one.Value, was, at))
			}
			made[one.Value] = at
		}
		if len(changes) != 1 {
			delete(orphans, at)
		}
	}
	var known, deletes []*call
	for _, c := range a.Calls {
		switch {
		case c.answered():
			if len(c.changes(a.Changes[c.Revision])) > 0 {
				delete(orphans, c.Revision)
			}
			known = append(known, c)
		case len(c.Then) == 1 && c.Then[0].Do == "delete":
			deletes = append(deletes, c)
		default:
			if c.found(made) {
				known = append(known, c)
			}
		}
	}
	after := floors(known, deletes)
	revisions := make([]int64, 0, len(orphans))
	for at := range orphans {
		revisions = append(revisions, at)
	}
	slices.Sort(revisions)
	for _, at := range revisions {
		for i, c := range deletes {
			if c != nil && keyOf(c.Group, c.Then[0].Key) == orphans[at].Key && after[i] < at {
				c.Revision, c.Deleted, deletes[i] = at, []int64{1}, nil
				known = append(known, c)
				break
			}
		}
	}
	a.Calls = known
	return faults
}

// found sets the revision and the branch of a call whose values are there.
func (c *call) found(made map[string]int64) bool {
	for _, branch := range []bool{true, false} {
		c.Succeeded = branch
		for _, one := range c.taken() {
			if at, ok := made[one.Value]; one.Do == "put" && ok {
				c.Revision = at
				return true
			}
		}
	}
	return false
}

// floors returns for each call the highest revision that somebody was told
// before it began.
func floors(told, calls []*call) []int64 {
	ended := slices.Clone(told)
	slices.SortFunc(ended, func(a, b *call) int { return cmp.Compare(a.End, b.End) })
	order := make([]int, len(calls))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(calls[a].Start, calls[b].Start) })
	floor, at, result := int64(0), 0, make([]int64, len(calls))
	for _, i := range order {
		for at < len(ended) && ended[at].End < calls[i].Start {
			floor = max(floor, ended[at].Revision)
			at++
		}
		result[i] = floor
	}
	return result
}

// explained checks that every acknowledged write is a revision of its own with
// just its changes, and that no other revision is there.
func (a *account) explained() (faults []string) {
	authors := map[int64]*call{}
	for _, c := range a.Calls {
		changes := c.changes(a.Changes[c.Revision])
		if len(changes) == 0 {
			continue
		}
		if other := authors[c.Revision]; other != nil {
			faults = append(faults, fmt.Sprintf("one revision for two: %s; %s", c, other))
		}
		authors[c.Revision] = c
		if !slices.Equal(changes, a.Changes[c.Revision]) {
			faults = append(faults, fmt.Sprintf("lost or another: %s; the watch said %v", c, a.Changes[c.Revision]))
		}
	}
	for at, changes := range a.Changes {
		_, _, ours := placeOf([]byte(changes[0].Key))
		if ours && authors[at] == nil {
			faults = append(faults, fmt.Sprintf("nobody asked for revision %d, %v", at, changes))
		}
	}
	return few(faults)
}

// changes is what a call did, in order. Whether a delete of a transaction
// found its key its answer says, or without one the watch.
func (c *call) changes(told []change) (changes []change) {
	deletes := 0
	for _, a := range c.taken() {
		if a.Do == "get" {
			continue
		}
		one := change{Key: keyOf(c.Group, a.Key), Value: a.Value, Delete: a.Do == "delete"}
		if one.Delete {
			found := slices.Contains(told, one)
			if deletes < len(c.Deleted) {
				found = c.Deleted[deletes] > 0
			}
			deletes++
			if !found {
				continue
			}
		}
		changes = append(changes, one)
	}
	return changes
}

// inTime checks that revisions follow real time: a linearizable call is not
// before what anybody was told when it began, and a member does not go back.
func (a *account) inTime() (faults []string) {
	lives := map[[2]int][]*call{}
	var strict []*call
	for _, c := range a.Calls {
		if !c.Serializable {
			strict = append(strict, c)
		}
		if c.answered() {
			lives[[2]int{c.Member, c.Life}] = append(lives[[2]int{c.Member, c.Life}], c)
		}
	}
	for i, floor := range floors(strict, strict) {
		if c := strict[i]; c.Revision < floor || c.Revision == floor && len(c.changes(a.Changes[c.Revision])) > 0 {
			faults = append(faults, fmt.Sprintf("stale: revision %d was told before %s", floor, c))
		}
	}
	for _, calls := range lives {
		for i, floor := range floors(calls, calls) {
			if c := calls[i]; c.Revision < floor {
				faults = append(faults, fmt.Sprintf("the member went back: it was at %d before %s", floor, c))
			}
		}
	}
	return few(faults)
}

// replayed checks every answer, linearizable or not, against the state at its
// revision as it follows from the changes.
func (a *account) replayed() (faults []string) {
	states := a.states()
	for _, c := range a.Calls {
		at := c.Revision
		if len(c.changes(a.Changes[at])) > 0 {
			at--
		}
		past := states[c.Group]
		i, _ := slices.BinarySearchFunc(past, at+1, func(s state, at int64) int { return cmp.Compare(s.Revision, at) })
		if i == 0 {
			faults = append(faults, fmt.Sprintf("of before the beginning: %s", c))
			continue
		}
		if _, fault := past[i-1].step(c); fault != "" {
			faults = append(faults, fmt.Sprintf("%s: %s", c, fault))
		}
	}
	return few(faults)
}

// states is each group after each of its changes.
func (a *account) states() (states [groups][]state) {
	for i := range states {
		states[i] = []state{{a.From - 1, a.Begin[i]}}
	}
	for at := a.From; at <= a.Last; at++ {
		for _, one := range a.Changes[at] {
			group, i, ours := placeOf([]byte(one.Key))
			if !ours {
				continue
			}
			last := states[group][len(states[group])-1]
			kv := held{}
			if !one.Delete {
				kv = last.Keys[i]
				if kv.Version == 0 {
					kv.Create = at
				}
				kv = held{one.Value, kv.Create, at, kv.Version + 1}
			}
			last.Revision, last.Keys[i] = at, kv
			states[group] = append(states[group], last)
		}
	}
	return states
}

// kept checks that no lease ended before its time.
func (a *account) kept() (faults []string) {
	for _, one := range a.Tenancies {
		if one.Lost != "" {
			faults = append(faults, fmt.Sprintf("lease %d lived at least to %s, but was %s", one.ID, one.Until, one.Lost))
		}
		if at, ok := a.Lapsed[one.Key]; ok && at < one.Until {
			faults = append(faults, fmt.Sprintf("lease %d lived at least to %s, but its key was gone at %s", one.ID, one.Until, at))
		}
	}
	return few(faults)
}

// few leaves the first ones and says how many there were.
func few(faults []string) []string {
	if len(faults) > shown {
		return append(faults[:shown:shown], fmt.Sprintf("and %d more", len(faults)-shown))
	}
	return faults
}

// linearizable asks porcupine about each group. What it finds wrong it draws
// into files named after the path given.
func (a *account) linearizable(path string) (faults []string) {
	var histories [groups][]porcupine.Operation
	for _, c := range a.Calls {
		if !c.Serializable {
			histories[c.Group] = append(histories[c.Group], porcupine.Operation{
				ClientId: c.Client, Input: c, Call: int64(c.Start), Return: int64(c.End),
			})
		}
	}
	for group, history := range histories {
		m := model(state{a.From - 1, a.Begin[group]})
		result, info := porcupine.CheckOperationsVerbose(m, history, decidesIn)
		if result == porcupine.Ok {
			continue
		}
		picture := fmt.Sprintf("%s-group%d.html", path, group)
		if err := porcupine.VisualizePath(m, info, picture); err != nil {
			picture = err.Error()
		}
		faults = append(faults, fmt.Sprintf("group %d: %d calls: linearizable: %s; see %s", group, len(history), result, picture))
	}
	return faults
}

// judge checks everything that the load saw, and keeps it in a file if
// something is wrong.
func (l *load) judge(last int64) {
	l.t.Helper()
	scribe := l.observers[0]
	a := &account{From: scribe.from, Last: last, Begin: l.before, Changes: scribe.changes, Lapsed: map[string]time.Duration{}}
	for _, c := range l.clients {
		a.Calls = append(a.Calls, c.calls...)
	}
	for _, one := range l.tenants {
		a.Tenancies = append(a.Tenancies, one.tenancies...)
	}
	var faults []string
	for i, o := range l.observers {
		faults = append(faults, o.compare(scribe, i, last)...)
		for at, heard := range o.heard {
			for _, one := range o.changes[at] {
				if was, ok := a.Lapsed[one.Key]; !ok || heard < was {
					a.Lapsed[one.Key] = heard
				}
			}
		}
	}
	asked := len(a.Calls)
	path := l.file(a) // as it was seen: settling changes it
	faults = append(faults, a.faults()...)
	faults = append(faults, a.linearizable(path)...)
	for _, fault := range faults {
		l.t.Error(fault)
	}
	if l.t.Failed() {
		l.t.Logf("the history is in %s.json", path)
	} else {
		os.Remove(path + ".json")
	}
	l.t.Logf("%s: %d calls of which %d were done, %d revisions, %d leases, %s",
		l.now().Round(time.Millisecond), asked, len(a.Calls), last-a.From+1, len(a.Tenancies), l.told())
}

// told is how many streams the observers needed.
func (l *load) told() string {
	streams := 0
	for _, o := range l.observers {
		streams += o.streams
	}
	return fmt.Sprintf("%d watches of %d observers", streams, len(l.observers))
}

// file writes an account below the module's cache and returns where, without
// the ending.
func (l *load) file(a *account) string {
	name := strings.ReplaceAll(fmt.Sprintf("%s-%d", l.t.Name(), l.seed), "/", "-")
	path := filepath.Join("..", ".cache", "robust", name)
	text, err := json.Marshal(a)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path+".json", text, 0o644)
	}
	if err != nil {
		l.t.Error(err)
	}
	return path
}

// compare checks that an observer was told what another was.
func (o *observer) compare(scribe *observer, number int, last int64) (faults []string) {
	for _, fault := range o.faults {
		faults = append(faults, fmt.Sprintf("observer %d: %s", number, fault))
	}
	if o.next <= last {
		faults = append(faults, fmt.Sprintf("observer %d was told up to %d of %d only", number, o.next-1, last))
	}
	if o.missed > o.load.mayMiss {
		faults = append(faults, fmt.Sprintf("observer %d: %d revisions were compacted before it was told", number, o.missed))
	}
	for at, changes := range o.changes {
		if at <= last && !slices.Equal(changes, scribe.changes[at]) {
			faults = append(faults, fmt.Sprintf("observer %d: revision %d is %v, and was %v elsewhere", number, at, changes, scribe.changes[at]))
		}
	}
	return few(faults)
}
