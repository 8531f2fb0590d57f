------------------------------ MODULE ZabTrace ------------------------------
(***************************************************************************)
(* Is what the members of a real ensemble did a behaviour of Zab?          *)
(*                                                                         *)
(* The module Recorded is written for each trace: Trace is the sequence of *)
(* what was seen, each <<event, member, epoch, counter>>, with 0 where an  *)
(* event has no epoch or counter; "accepted" has the epoch's leader as its *)
(* counter, or 0 if that was not seen.  A behaviour of this module takes the    *)
(* events one after another, each as a step of Zab (or as one that changes *)
(* nothing, where Zab has no step for it).  So the trace is one of Zab if  *)
(* and only if some behaviour is as long as the trace; if none is, the     *)
(* longest ends before the first event that no step explains.              *)
(***************************************************************************)
EXTENDS Zab, Recorded

VARIABLE line  \* The next event's.

traced == <<history, acceptedEpoch, currentEpoch, leading, delivered,
            messages, initial, acked, proposed, committed, line>>

(* The h that is a beginning of whole and ends with zxid. *)
Beginnings(whole, zxid) ==
    IF zxid = <<0, 0>> THEN {<<>>}
    ELSE {SubSeq(whole, 1, n) : n \in {k \in 1..Len(whole) : whole[k] = zxid}}

(* The member looks for a leader, because it was started or gave up. *)
Looking(m) == StepDown(m) \/ (leading[m] = 0 /\ UNCHANGED vars)

(* The log on the member's disk ends with this zxid now. *)
History(m, zxid) ==
    LET e == acceptedEpoch[m]
    IN  \/ zxid[1] = currentEpoch[m] /\ Log(m, zxid[2])
        \/ /\ e > currentEpoch[m] /\ Begun(e)
           /\ \E h \in Beginnings(history[m], zxid) \union Beginnings(Whole(e), zxid) : Synchronise(m, h)
        \/ Last(history[m]) = zxid /\ UNCHANGED vars

(* The member has applied everything up to this zxid. *)
Applied(m, zxid) ==
    LET e == currentEpoch[m]
    IN  \/ leading[m] = zxid[1] /\ Commit(m, zxid[2])
        \/ e > 0 /\ Established(e) /\ \E h \in Beginnings(Committed(e), zxid) : Deliver(m, Len(h))

Explained(event, m, e, n) ==
    \/ event = "looking" /\ Looking(m)
    \/ event = "accepted" /\ n \in {0, m} /\ NewEpoch(m, e)
    \/ event = "accepted" /\ \E leader \in Server : n \in {0, leader} /\ AcceptEpoch(m, leader, e)
    \/ event = "begun" /\ leading[m] = e /\ Begin(m)
    \/ event = "history" /\ History(m, <<e, n>>)
    \/ event = "entered" /\ acceptedEpoch[m] = e /\ EnterEpoch(m)
    \/ event = "established" /\ leading[m] = e /\ Establish(m)
    \/ event = "serving" /\ currentEpoch[m] = e /\ Established(e) /\ UNCHANGED vars
    \/ event = "proposed" /\ leading[m] = e /\ Propose(m, n)
    \/ event = "applied" /\ Applied(m, <<e, n>>)

TraceInit == Init /\ line = 1

TraceNext ==
    /\ line <= Len(Trace)
    /\ LET seen == Trace[line] IN Explained(seen[1], seen[2], seen[3], seen[4])
    /\ line' = line + 1

(* LeaderCompleteness and Durability, judged of the newest epoch in each step: traces have many epochs. *)

Newest(epochs) == CHOOSE e \in epochs : \A d \in epochs : d <= e

BegunEpochs == {b.epoch : b \in initial}

NewestIsComplete ==
    BegunEpochs # {} =>
        LET e == Newest(BegunEpochs)
            h == Initial(e)
        IN  \A d \in BegunEpochs : d < e /\ Established(d) => IsPrefix(Committed(d), h)

NewestIsDurable ==
    LET established == {e \in BegunEpochs : Established(e)}
    IN  established # {} =>
            LET h == Committed(Newest(established)) IN IsQuorum({s \in Server : IsPrefix(h, history[s])})

TraceSpec == TraceInit /\ [][TraceNext]_traced
=============================================================================
