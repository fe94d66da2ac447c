package main

import (
	"math"
	"testing"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(i + 1)
	}
	for _, c := range []struct {
		sorted []int64
		p      float64
		want   int64
	}{
		{nil, 50, 0},
		{[]int64{7}, 0, 7},
		{[]int64{7}, 99, 7},
		{[]int64{1, 2, 3, 4}, 50, 2},
		{[]int64{1, 2, 3, 4}, 51, 3},
		{[]int64{1, 2, 3, 4}, 100, 4},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.5, 100},
	} {
		if got := percentile(c.sorted, c.p); got != c.want {
			t.Errorf("percentile %v of %d values is %d, want %d", c.p, len(c.sorted), got, c.want)
		}
	}
}

func TestMedianIgnoresOrderAndOneOutlier(t *testing.T) {
	values := []float64{9000, 1, 3}
	if got := median(values); got != 3 {
		t.Errorf("median is %v, want 3", got)
	}
	if values[0] != 9000 {
		t.Error("median sorted the caller's values")
	}
	if got := median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("median of four is %v, want 2.5", got)
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v, want NaN", got)
	}
}

func TestPairwiseComparesRoundWithRound(t *testing.T) {
	low, high := pairwise([]float64{1, 6, 5}, []float64{2, 3})
	if low != 0.5 || high != 2 {
		t.Errorf("ratios from %v to %v, want 0.5 to 2", low, high)
	}
	if low, high = pairwise(nil, []float64{1}); !math.IsNaN(low) || !math.IsNaN(high) {
		t.Errorf("ratios of nothing are %v to %v, want NaN", low, high)
	}
	if low, _ = pairwise([]float64{1}, []float64{0}); !math.IsNaN(low) {
		t.Errorf("a ratio over zero is %v, want NaN", low)
	}
}
