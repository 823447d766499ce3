"""Of an array of which an instruction reads or overwrites slices, only those count."""

from benchmarks.compiled_hlo import steps

SLICES = """
HloModule slices, is_scheduled=true

%sliced (param_0: f32[1000]) -> f32[1,100] {
  %param_0 = f32[1000]{0} parameter(0)
  %rows = f32[10,100]{1,0} bitcast(%param_0)
  ROOT %row = f32[1,100]{1,0} slice(%rows), slice={[2:3], [0:100]}
}

%read_twice (param_1: f32[1000]) -> f32[1000] {
  %param_1 = f32[1000]{0} parameter(0)
  %few = f32[10]{0} slice(%param_1), slice={[0:10]}
  %one = f32[1]{0} slice(%few), slice={[0:1]}
  %wide = f32[1000]{0} broadcast(%one), dimensions={0}
  ROOT %added = f32[1000]{0} add(%param_1, %wide)
}

%overlapping (param_2: f32[1000]) -> f32[2,900] {
  %param_2 = f32[1000]{0} parameter(0)
  %low = f32[900]{0} slice(%param_2), slice={[0:900]}
  %high = f32[900]{0} slice(%param_2), slice={[100:1000]}
  ROOT %joined = f32[1800]{0} concatenate(%low, %high), dimensions={0}
}

%updated (param_4: f32[10], param_3: f32[1000]) -> (f32[1000], f32[10]) {
  %param_4 = f32[10]{0} parameter(1)
  %param_3 = f32[1000]{0} parameter(0)
  %at = s32[] constant(7)
  %new = f32[1000]{0} dynamic-update-slice(%param_3, %param_4, %at)
  ROOT %pair = (f32[1000]{0}, f32[10]{0}) tuple(%new, %param_4)
}

ENTRY %main (x: f32[1000], y: f32[10], index: s32[10,1]) -> f32[1000] {
  %x = f32[1000]{0} parameter(0)
  %y = f32[10]{0} parameter(1)
  %index = s32[10,1]{1,0} parameter(2)
  %a = f32[1,100]{1,0} fusion(%x), kind=kLoop, calls=%sliced
  %b = f32[1000]{0} fusion(%x), kind=kLoop, calls=%read_twice
  %c = f32[1800]{0} fusion(%x), kind=kLoop, calls=%overlapping
  %d = (f32[1000]{0}, f32[10]{0}) fusion(%x, %y), kind=kLoop, calls=%updated
  %e = f32[1000]{0} scatter(%x, %index, %y), to_apply=%add
  %f = ((f32[1000]{0}), f32[50]{0}, s32[]) slice-start(%x), slice={[0:50]}
  ROOT %g = f32[1000]{0} negate(%x)
}
"""


def test_of_a_slice_only_the_slice_counts() -> None:
    floats = [step.size.logical / 4 for step in steps(SLICES)]
    assert floats == [100 + 100, 2000, 1000 + 1800, 10 + 10 + 10, 10 + 10 + 10, 50 + 50, 2000]
