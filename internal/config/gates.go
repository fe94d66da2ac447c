package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Gate is a switch of a feature that is not final, by etcd's name.
type Gate string

// The gates of etcd 3.7.3.
const (
	CompactHashCheck             Gate = "CompactHashCheck"
	FastLeaseKeepAlive           Gate = "FastLeaseKeepAlive"
	InitialCorruptCheck          Gate = "InitialCorruptCheck"
	LeaseCheckpoint              Gate = "LeaseCheckpoint"
	LeaseCheckpointPersist       Gate = "LeaseCheckpointPersist"
	PriorityRequest              Gate = "PriorityRequest"
	SetMemberLocalAddr           Gate = "SetMemberLocalAddr"
	StopGRPCServiceOnDefrag      Gate = "StopGRPCServiceOnDefrag"
	TxnModeWriteWithSharedBuffer Gate = "TxnModeWriteWithSharedBuffer"

	// allAlpha and allBeta stand for every gate of that stage that is not
	// named itself.
	allAlpha Gate = "AllAlpha"
	allBeta  Gate = "AllBeta"
)

// beta says at which of its two stages etcd has a gate. There, beta gates are
// on unless switched off, the others off unless switched on.
func beta(g Gate) bool { return g == FastLeaseKeepAlive || g == TxnModeWriteWithSharedBuffer }

// standard says whether a gate is on when nothing is said about it. That
// members agree is checked here, and not hoped for, and a lease does not start
// anew with each leader.
func standard(g Gate) bool {
	return beta(g) || g == CompactHashCheck || g == InitialCorruptCheck || g == LeaseCheckpoint
}

func knownGates() []Gate {
	return []Gate{
		CompactHashCheck, FastLeaseKeepAlive, InitialCorruptCheck, LeaseCheckpoint, LeaseCheckpointPersist,
		PriorityRequest, SetMemberLocalAddr, StopGRPCServiceOnDefrag, TxnModeWriteWithSharedBuffer,
	}
}

func gateNames() string {
	names := []string{string(allAlpha), string(allBeta)}
	for _, g := range knownGates() {
		names = append(names, string(g))
	}
	return strings.Join(names, ", ")
}

// Gates are the switches that were set.
type Gates struct {
	set map[Gate]bool
}

// On says whether a feature is switched on.
func (g Gates) On(gate Gate) bool {
	if on, ok := g.set[gate]; ok {
		return on
	}
	if all, ok := g.set[allBeta]; ok && beta(gate) {
		return all
	}
	if all, ok := g.set[allAlpha]; ok && !beta(gate) {
		return all
	}
	return standard(gate)
}

// GateState is where one gate stands.
type GateState struct {
	Gate Gate
	Beta bool // else alpha
	On   bool
}

// States are all gates, those for whole stages included, by name.
func (g Gates) States() []GateState {
	all := []GateState{{allAlpha, false, g.set[allAlpha]}, {allBeta, true, g.set[allBeta]}}
	for _, gate := range knownGates() {
		all = append(all, GateState{gate, beta(gate), g.On(gate)})
	}
	return all
}

// gates reads and writes Gates. Like etcd's flag it adds to what was set.
type gates struct{ to *Gates }

func (g gates) reset() { g.to.set = nil }

func (g gates) set(s string) error {
	added := map[Gate]bool{}
	for pair := range strings.SplitSeq(s, ",") {
		if pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok {
			return fmt.Errorf("missing bool value for %s", name)
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("invalid value of %s=%s, err: %w", name, value, err)
		}
		if gate := Gate(name); !slices.Contains(knownGates(), gate) && gate != allAlpha && gate != allBeta {
			return fmt.Errorf("unrecognized feature gate: %s%s", name, meant(name, strings.Split(gateNames(), ", ")))
		}
		added[Gate(name)] = on
	}
	merged := maps.Clone(g.to.set)
	if merged == nil {
		merged = map[Gate]bool{}
	}
	maps.Copy(merged, added)
	g.to.set = merged
	return nil
}

func (g gates) text() string {
	pairs := make([]string, 0, len(g.to.set))
	for gate, on := range g.to.set {
		pairs = append(pairs, fmt.Sprintf("%s=%t", gate, on))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

// effective is every gate that is on.
func (g gates) effective() string {
	var on []string
	for _, gate := range knownGates() {
		if g.to.On(gate) {
			on = append(on, string(gate)+"=true")
		}
	}
	return strings.Join(on, ",")
}

func (gates) want() string { return "list of GATE=true or GATE=false" }

// toml also takes a table of booleans.
func (gates) toml(v any) (string, bool) {
	table, ok := v.(map[string]any)
	if !ok {
		return tomlList(v)
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(table)) {
		on, ok := table[name].(bool)
		if !ok {
			return "", false
		}
		pairs = append(pairs, fmt.Sprintf("%s=%t", name, on))
	}
	return strings.Join(pairs, ","), true
}
