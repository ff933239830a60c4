"""Whether the arrays of a call lie apart, as LLVM IR. The GIL is held: nobody else is in here.

What a program updates in place shares memory with nothing else: those arrays are compared with each
other when they are not the ones of the last call, the rest with them each time. Results that the
caller has given room for share memory with nothing either; of those calls, only what lies elsewhere
than in the last one is compared. Which arrays were found apart is known by their addresses, as
their sizes are fixed.

Non-goals: results that a call makes: nothing else is there.
"""

from __future__ import annotations

TEXT = """
define internal i64 @gradc.apart(ptr %table, ptr %pointers) #0 {
entry:
  %updated = TABLE i64 updated
  %count = TABLE i64 count
  %order = TABLE ptr order
  %sizes = TABLE ptr sizes
  %seen = TABLE ptr seen
  %none = icmp eq i64 %updated, 0
  br i1 %none, label %apart, label %look
look:
  %w = phi i64 [ 0, %entry ], [ %w.next, %known ]
  %w_cell = getelementptr i64, ptr %order, i64 %w
  %w_port = load i64, ptr %w_cell
  %w_at = getelementptr i64, ptr %pointers, i64 %w_port
  %now = load i64, ptr %w_at
  %before_cell = getelementptr i64, ptr %seen, i64 %w
  %before = load i64, ptr %before_cell
  %same = icmp eq i64 %now, %before
  br i1 %same, label %known, label %compare
known:
  %w.next = add i64 %w, 1
  %more_seen = icmp ult i64 %w.next, %updated
  br i1 %more_seen, label %look, label %compare
compare:
  ; all pairs of them if one is new, else what is only read against them
  %start = phi i64 [ 1, %look ], [ %updated, %known ]
  br label %next
next:
  %a = phi i64 [ %start, %compare ], [ %a.next, %fine ]
  %more = icmp ult i64 %a, %count
  br i1 %more, label %one, label %note
one:
  %a_cell = getelementptr i64, ptr %order, i64 %a
  %a_port = load i64, ptr %a_cell
  %a_at = getelementptr i64, ptr %pointers, i64 %a_port
  %a_begin = load i64, ptr %a_at
  %a_size_cell = getelementptr i64, ptr %sizes, i64 %a
  %a_size = load i64, ptr %a_size_cell
  %a_end = add i64 %a_begin, %a_size
  %few = icmp ult i64 %a, %updated
  %others = select i1 %few, i64 %a, i64 %updated
  br label %other
other:
  %b = phi i64 [ 0, %one ], [ %b.next, %beside ]
  %b_cell = getelementptr i64, ptr %order, i64 %b
  %b_port = load i64, ptr %b_cell
  %b_at = getelementptr i64, ptr %pointers, i64 %b_port
  %b_begin = load i64, ptr %b_at
  %b_size_cell = getelementptr i64, ptr %sizes, i64 %b
  %b_size = load i64, ptr %b_size_cell
  %b_end = add i64 %b_begin, %b_size
  %below = icmp ult i64 %a_begin, %b_end
  %above = icmp ult i64 %b_begin, %a_end
  %overlap = and i1 %below, %above
  br i1 %overlap, label %refuse, label %beside
beside:
  %b.next = add i64 %b, 1
  %more_others = icmp ult i64 %b.next, %others
  br i1 %more_others, label %other, label %fine
fine:
  %a.next = add i64 %a, 1
  br label %next
note:
  %n = phi i64 [ 0, %next ], [ %n.next, %note ]
  %n_cell = getelementptr i64, ptr %order, i64 %n
  %n_port = load i64, ptr %n_cell
  %n_at = getelementptr i64, ptr %pointers, i64 %n_port
  %n_now = load i64, ptr %n_at
  %n_seen = getelementptr i64, ptr %seen, i64 %n
  store i64 %n_now, ptr %n_seen
  %n.next = add i64 %n, 1
  %more_notes = icmp ult i64 %n.next, %updated
  br i1 %more_notes, label %note, label %apart
apart:
  ret i64 -1
refuse:
  ret i64 %a_port
}

define internal i64 @gradc.made_apart(ptr %table, ptr %pointers) #0 {
entry:
  %count = TABLE i64 count
  %words = TABLE ptr ports
  %extents = TABLE ptr extents
  %places = TABLE ptr places
  br label %port
port:
  %a = phi i64 [ 0, %entry ], [ %a.next, %fine ]
  %more = icmp ult i64 %a, %count
  br i1 %more, label %look, label %note
look:
  %a_at = getelementptr i64, ptr %pointers, i64 %a
  %a_begin = load i64, ptr %a_at
  %place = getelementptr i64, ptr %places, i64 %a
  %before = load i64, ptr %place
  %same = icmp eq i64 %a_begin, %before
  br i1 %same, label %fine, label %moved
moved:
  %word = getelementptr [8 x i64], ptr %words, i64 %a
  %a_holder = PORT i64 holder
  %a_made = icmp slt i64 %a_holder, 0
  %a_extent = getelementptr i64, ptr %extents, i64 %a
  %a_size = load i64, ptr %a_extent
  %a_end = add i64 %a_begin, %a_size
  br label %other
other:
  %b = phi i64 [ 0, %moved ], [ %b.next, %beside ]
  %rword = getelementptr [8 x i64], ptr %words, i64 %b
  %b_holder = OUT i64 holder
  %b_made = icmp slt i64 %b_holder, 0
  %written = or i1 %a_made, %b_made
  %self = icmp eq i64 %a, %b
  %b_at = getelementptr i64, ptr %pointers, i64 %b
  %b_begin = load i64, ptr %b_at
  %b_extent = getelementptr i64, ptr %extents, i64 %b
  %b_size = load i64, ptr %b_extent
  %b_end = add i64 %b_begin, %b_size
  %below = icmp ult i64 %a_begin, %b_end
  %above = icmp ult i64 %b_begin, %a_end
  %overlap = and i1 %below, %above
  %matters = and i1 %overlap, %written
  %distinct = xor i1 %self, true
  %refused = and i1 %matters, %distinct
  br i1 %refused, label %refuse, label %beside
beside:
  %b.next = add i64 %b, 1
  %more_others = icmp ult i64 %b.next, %count
  br i1 %more_others, label %other, label %fine
fine:
  %a.next = add i64 %a, 1
  br label %port
note:
  %n = phi i64 [ 0, %port ], [ %n.next, %one ]
  %left = icmp ult i64 %n, %count
  br i1 %left, label %one, label %apart
one:
  %n_at = getelementptr i64, ptr %pointers, i64 %n
  %n_now = load i64, ptr %n_at
  %n_place = getelementptr i64, ptr %places, i64 %n
  store i64 %n_now, ptr %n_place
  %n.next = add i64 %n, 1
  br label %note
apart:
  ret i64 -1
refuse:
  ret i64 %a
}
"""
