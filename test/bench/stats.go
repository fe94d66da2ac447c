package main

import (
	"math"
	"slices"
)

// percentile returns the value below or at which p percent of the sorted
// values lie (nearest rank), or 0 without values.
func percentile(sorted []int64, p float64) int64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median returns the middle value, the mean of the two in the middle where
// the count is even, and NaN without values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// pairwise returns the smallest and the largest ratio of the values of the
// same round: how far chance alone moved the result.
func pairwise(over, under []float64) (low, high float64) {
	low, high = math.NaN(), math.NaN()
	for i := range min(len(over), len(under)) {
		r := over[i] / under[i]
		if math.IsNaN(r) || math.IsInf(r, 0) {
			continue
		}
		if math.IsNaN(low) || r < low {
			low = r
		}
		if math.IsNaN(high) || r > high {
			high = r
		}
	}
	return low, high
}
