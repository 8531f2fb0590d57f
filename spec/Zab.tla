-------------------------------- MODULE Zab --------------------------------
(***************************************************************************)
(* Zab 1.0, by which the members of a ZooKeeper ensemble agree on one      *)
(* history of transactions: discovery of a new epoch, synchronisation of a *)
(* quorum with the history of its leader, broadcast; crashes in between.   *)
(*                                                                         *)
(* After F. Junqueira, B. Reed, M. Serafini: "Zab: High-performance        *)
(* broadcast for primary-backup systems" (DSN 2011), the text "Zab 1.0" of *)
(* the ZooKeeper project, and the invariants of its protocol               *)
(* specification.  The text is our own, and the style is that of Lamport's *)
(* Paxos: a message once sent is a fact that stays, which anybody may act  *)
(* on at any later time or never.  So there are no links to lose messages  *)
(* or to break, and no order of messages but that which the guards ask     *)
(* for.                                                                    *)
(*                                                                         *)
(* What is left out, because no promise rests on it:                       *)
(*  - Elections and FOLLOWERINFO.  Any server may try to lead at any time, *)
(*    with any epoch newer than those that it accepted.                    *)
(*  - DIFF, TRUNC and SNAP.  A follower that synchronises may, in any      *)
(*    number of steps, cut off what its leader lacks and append what it    *)
(*    lacks itself, and may crash after each.                              *)
(*  - Memory.  A step that changes history, acceptedEpoch or currentEpoch  *)
(*    is the moment at which the disk holds the change; what this promises *)
(*    to others (ACKEPOCH, ACK) is a fact from then on.                    *)
(***************************************************************************)
EXTENDS Integers, Sequences, FiniteSets

CONSTANTS
    Server,    \* The voters.
    MaxEpoch,  \* Epochs are 1..MaxEpoch; 0 stands for "none yet".
    MaxTxns    \* How many transactions are proposed, in all epochs together.

VARIABLES
    (* On disk.  A transaction is known by its zxid, <<epoch, counter>>. *)
    history,        \* [Server -> Seq(Zxid)] the log
    acceptedEpoch,  \* [Server -> 0..MaxEpoch] f.p: nothing older is followed
    currentEpoch,   \* [Server -> 0..MaxEpoch] f.a: the epoch whose history the log begins with
    (* In memory. *)
    leading,        \* [Server -> 0..MaxEpoch] the epoch that it tries to lead or leads, 0 if none
    delivered,      \* [Server -> Seq(Zxid)] what it applied to its state last; a restarted server applies it again
    (* Facts, which stay. *)
    messages,       \* LEADERINFO and ACKEPOCH that were sent
    initial,        \* the epochs begun: [epoch, leader, history] that NEWLEADER stands for
    acked,          \* [Epoch -> [Server -> Int]] acknowledged: -1 nothing, 0 NEWLEADER, n also n proposals
    proposed,       \* [Epoch -> Nat] how many transactions its leader proposed
    committed       \* [Epoch -> Int] -1 until established (UPTODATE), then how many it committed

durable  == <<history, acceptedEpoch, currentEpoch>>
volatile == <<leading, delivered>>
facts    == <<messages, initial, acked, proposed, committed>>
vars     == <<history, acceptedEpoch, currentEpoch, leading, delivered, messages, initial, acked, proposed, committed>>

Epoch == 1..MaxEpoch

IsQuorum(servers) == 2 * Cardinality(servers) > Cardinality(Server)

------------------------------------------------------------------------------
(* Histories *)

Max(a, b) == IF a > b THEN a ELSE b

Last(h) == IF h = <<>> THEN <<0, 0>> ELSE h[Len(h)]

Before(a, b) == a[1] < b[1] \/ (a[1] = b[1] /\ a[2] < b[2])  \* of two zxids

IsPrefix(g, h) == Len(g) <= Len(h) /\ g = SubSeq(h, 1, Len(g))

Agree(g, h) == IsPrefix(g, h) \/ IsPrefix(h, g)

Shared(g, h) ==  \* The length of their longest common prefix.
    LET shorter == IF Len(g) < Len(h) THEN Len(g) ELSE Len(h)
        differ == {n \in 1..shorter : g[n] # h[n]}
    IN  IF differ = {} THEN shorter ELSE (CHOOSE n \in differ : \A m \in differ : n <= m) - 1

Begun(e) == \E b \in initial : b.epoch = e

Initial(e) == (CHOOSE b \in initial : b.epoch = e).history  \* What every follower of epoch e starts with.

Whole(e) == Initial(e) \o [n \in 1..proposed[e] |-> <<e, n>>]

Established(e) == committed[e] >= 0

Committed(e) == SubSeq(Whole(e), 1, Len(Initial(e)) + committed[e])

RECURSIVE Sum(_)
Sum(n) == IF n = 0 THEN 0 ELSE proposed[n] + Sum(n - 1)

------------------------------------------------------------------------------
Init ==
    /\ history = [s \in Server |-> <<>>]
    /\ acceptedEpoch = [s \in Server |-> 0]
    /\ currentEpoch = [s \in Server |-> 0]
    /\ leading = [s \in Server |-> 0]
    /\ delivered = [s \in Server |-> <<>>]
    /\ messages = {}
    /\ initial = {}
    /\ acked = [e \in Epoch |-> [s \in Server |-> -1]]
    /\ proposed = [e \in Epoch |-> 0]
    /\ committed = [e \in Epoch |-> -1]

(* Discovery *)

AckEpoch(s, leader, e) ==
    [type |-> "ACKEPOCH", from |-> s, to |-> leader, epoch |-> e, current |-> currentEpoch[s], last |-> Last(history[s])]

(* A server tries to lead epoch e: it accepts the epoch itself and sends LEADERINFO. *)
NewEpoch(s, e) ==
    /\ e > acceptedEpoch[s]
    /\ acceptedEpoch' = [acceptedEpoch EXCEPT ![s] = e]
    /\ leading' = [leading EXCEPT ![s] = e]
    /\ messages' = messages \union {[type |-> "LEADERINFO", from |-> s, epoch |-> e], AckEpoch(s, s, e)}
    /\ UNCHANGED <<history, currentEpoch, delivered, initial, acked, proposed, committed>>

(* A server accepts another's epoch, if it has not accepted that epoch or a newer one before. *)
AcceptEpoch(s, leader, e) ==
    /\ e > acceptedEpoch[s]
    /\ [type |-> "LEADERINFO", from |-> leader, epoch |-> e] \in messages
    /\ messages' = messages \union {AckEpoch(s, leader, e)}
    /\ acceptedEpoch' = [acceptedEpoch EXCEPT ![s] = e]
    /\ leading' = [leading EXCEPT ![s] = 0]
    /\ UNCHANGED <<history, currentEpoch, delivered, initial, acked, proposed, committed>>

(* Synchronisation *)

AsRecent(s, m) ==  \* The server's history is at least as recent as the one that the ACKEPOCH tells of.
    \/ m.current < currentEpoch[s]
    \/ m.current = currentEpoch[s] /\ ~Before(Last(history[s]), m.last)

(* A quorum, none of which has a more recent history, accepted the epoch: the leader's history becomes the epoch's. *)
Begin(s) ==
    LET e == leading[s]
        quorum == {m.from : m \in {n \in messages :
                        n.type = "ACKEPOCH" /\ n.to = s /\ n.epoch = e /\ AsRecent(s, n)}}
    IN  /\ e > 0 /\ acceptedEpoch[s] = e /\ currentEpoch[s] < e
        /\ ~\E b \in initial : b.epoch = e /\ b.leader = s
        /\ IsQuorum(quorum)
        /\ initial' = initial \union {[epoch |-> e, leader |-> s, history |-> history[s]]}
        /\ UNCHANGED <<durable, volatile, messages, acked, proposed, committed>>

(* Part of the way from a follower's own history to the leader's. Nothing that both hold is given up on it. *)
Synchronise(s, h) ==
    LET e == acceptedEpoch[s]
    IN  /\ e > currentEpoch[s] /\ Begun(e)
        /\ h # history[s]
        /\ Len(h) >= Shared(history[s], Whole(e))
        /\ IsPrefix(h, history[s]) \/ IsPrefix(h, Whole(e))
        /\ history' = [history EXCEPT ![s] = h]
        /\ UNCHANGED <<acceptedEpoch, currentEpoch, volatile, facts>>

(* With the epoch's initial history on its disk a server enters the epoch and acknowledges NEWLEADER. *)
EnterEpoch(s) ==
    LET e == acceptedEpoch[s]
    IN  /\ e > currentEpoch[s] /\ Begun(e)
        /\ IsPrefix(Initial(e), history[s]) /\ IsPrefix(history[s], Whole(e))
        /\ currentEpoch' = [currentEpoch EXCEPT ![s] = e]
        /\ acked' = [acked EXCEPT ![e][s] = Len(history[s]) - Len(Initial(e))]
        /\ UNCHANGED <<history, acceptedEpoch, volatile, messages, initial, proposed, committed>>

Acknowledged(e, n) == {s \in Server : acked[e][s] >= n}

(* A quorum acknowledged NEWLEADER: the initial history is committed. The leader delivers it and sends UPTODATE. *)
Establish(s) ==
    LET e == leading[s]
    IN  /\ e > 0 /\ currentEpoch[s] = e /\ ~Established(e)
        /\ IsQuorum(Acknowledged(e, 0))
        /\ committed' = [committed EXCEPT ![e] = 0]
        /\ delivered' = [delivered EXCEPT ![s] = Initial(e)]
        /\ UNCHANGED <<durable, leading, messages, initial, acked, proposed>>

(* Broadcast *)

(* The leader of an established epoch proposes transactions, up to the n-th of the epoch. *)
Propose(s, n) ==
    LET e == leading[s]
    IN  /\ e > 0 /\ currentEpoch[s] = e /\ Established(e)
        /\ n > proposed[e]
        /\ proposed' = [proposed EXCEPT ![e] = n]
        /\ UNCHANGED <<durable, volatile, messages, initial, acked, committed>>

(* A server that entered the epoch, and has not accepted a newer one, has the first n on disk and acknowledges them. *)
Log(s, n) ==
    LET e == currentEpoch[s]
    IN  /\ e > 0 /\ acceptedEpoch[s] = e
        /\ acked[e][s] < n /\ n <= proposed[e]
        /\ history' = [history EXCEPT ![s] = SubSeq(Whole(e), 1, Len(Initial(e)) + n)]
        /\ acked' = [acked EXCEPT ![e][s] = n]
        /\ UNCHANGED <<acceptedEpoch, currentEpoch, volatile, messages, initial, proposed, committed>>

(* A quorum has the first n on disk: the leader delivers them and sends COMMIT. *)
Commit(s, n) ==
    LET e == leading[s]
    IN  /\ e > 0 /\ currentEpoch[s] = e /\ Established(e)
        /\ committed[e] < n /\ n <= proposed[e]
        /\ IsQuorum(Acknowledged(e, n))
        /\ committed' = [committed EXCEPT ![e] = n]
        /\ delivered' = [delivered EXCEPT ![s] = SubSeq(Whole(e), 1, Len(Initial(e)) + n)]
        /\ UNCHANGED <<durable, leading, messages, initial, acked, proposed>>

(* A follower delivers what is committed, up to the n-th of the history. *)
Deliver(s, n) ==
    LET e == currentEpoch[s]
    IN  /\ e > 0 /\ acceptedEpoch[s] = e /\ Established(e)
        /\ n <= Len(Committed(e))
        /\ delivered' = [delivered EXCEPT ![s] = SubSeq(Committed(e), 1, n)]
        /\ UNCHANGED <<durable, leading, facts>>

(* Failures *)

(* A leader gives up because it heard too few followers, or of a newer epoch; or it crashes and comes back with what is on
   its disk. A follower that does so changes nothing here: whether it goes on is its own choice in every step. *)
StepDown(s) ==
    /\ leading[s] > 0
    /\ leading' = [leading EXCEPT ![s] = 0]
    /\ UNCHANGED <<durable, delivered, facts>>

Next ==
    \E s \in Server :
        \/ \E e \in Epoch : NewEpoch(s, e) \/ \E leader \in Server : AcceptEpoch(s, leader, e)
        \/ Begin(s)
        \/ \E n \in 0..Len(history[s]) : Synchronise(s, SubSeq(history[s], 1, n))
        \/ /\ acceptedEpoch[s] > 0 /\ Begun(acceptedEpoch[s])
           /\ LET whole == Whole(acceptedEpoch[s])
              IN  \E n \in 0..Len(whole) : Synchronise(s, SubSeq(whole, 1, n))
        \/ EnterEpoch(s)
        \/ Establish(s)
        \/ leading[s] > 0 /\ Sum(MaxEpoch) < MaxTxns /\ Propose(s, proposed[leading[s]] + 1)
        \/ \E n \in 1..MaxTxns : Log(s, n) \/ Commit(s, n)
        \/ /\ currentEpoch[s] > 0 /\ Established(currentEpoch[s])
           /\ Deliver(s, Len(Committed(currentEpoch[s])))
        \/ StepDown(s)

Spec == Init /\ [][Next]_vars

------------------------------------------------------------------------------
(* What must hold. In brackets: what the paper, or the specification of the ZooKeeper project, calls it. *)

Zxid == Epoch \X (1..MaxTxns)

TypeOK ==
    /\ \A s \in Server : \A n \in 1..Len(history[s]) : history[s][n] \in Zxid
    /\ acceptedEpoch \in [Server -> 0..MaxEpoch]
    /\ currentEpoch \in [Server -> 0..MaxEpoch]
    /\ leading \in [Server -> 0..MaxEpoch]
    /\ \A b \in initial : b.epoch \in Epoch /\ b.leader \in Server
    /\ acked \in [Epoch -> [Server -> -1..MaxTxns]]
    /\ proposed \in [Epoch -> 0..MaxTxns]
    /\ committed \in [Epoch -> -1..MaxTxns]

(* An epoch has at most one leader whom a quorum accepted. [Leadership] *)
Leadership == \A b, c \in initial : b.epoch = c.epoch => b = c

(* No server follows an epoch that it has not accepted. *)
EpochOrder == \A s \in Server : currentEpoch[s] <= acceptedEpoch[s]

(* What a server delivered is a beginning of what any other delivered, or the other way round. [Agreement, Total order] *)
Agreement == \A s, t \in Server : Agree(delivered[s], delivered[t])

(* Nothing is delivered that is not committed in some epoch. *)
DeliveredIsCommitted ==
    \A s \in Server : delivered[s] # <<>> => \E e \in Epoch : Established(e) /\ IsPrefix(delivered[s], Committed(e))

(* Whatever an epoch committed is in the initial history of every later one. [Leader completeness, Primary integrity] *)
LeaderCompleteness ==
    \A d, e \in Epoch : d < e /\ Established(d) /\ Begun(e) => IsPrefix(Committed(d), Initial(e))

(* Whatever is committed is on the disks of a quorum, and stays there. [Committed log durability] *)
Durability ==
    \A e \in Epoch : Established(e) => IsQuorum({s \in Server : IsPrefix(Committed(e), history[s])})

(* Whatever is on a disk was proposed. [Integrity] *)
Integrity == \A s \in Server : \A n \in 1..Len(history[s]) : history[s][n][2] <= proposed[history[s][n][1]]

(* In every log the epochs follow one another, [Global primary order]
   and the transactions of each are those that were proposed first, in that order. [Local primary order] *)
PrimaryOrder ==
    \A s \in Server :
        LET h == history[s]
        IN  \A n \in 1..Len(h) :
                IF n > 1 /\ h[n - 1][1] = h[n][1] THEN h[n][2] = h[n - 1][2] + 1
                                                 ELSE h[n][2] = 1 /\ (n = 1 \/ h[n - 1][1] < h[n][1])

(* The log of a server in an epoch is the epoch's history, as far as it goes. [Process consistency] *)
ProcessConsistency ==
    \A s \in Server : currentEpoch[s] > 0 /\ acceptedEpoch[s] = currentEpoch[s] =>
        IsPrefix(Initial(currentEpoch[s]), history[s]) /\ IsPrefix(history[s], Whole(currentEpoch[s]))

Safety ==
    /\ TypeOK
    /\ Leadership
    /\ EpochOrder
    /\ Agreement
    /\ DeliveredIsCommitted
    /\ LeaderCompleteness
    /\ Durability
    /\ Integrity
    /\ PrimaryOrder
    /\ ProcessConsistency
=============================================================================
