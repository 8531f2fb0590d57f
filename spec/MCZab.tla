-------------------------------- MODULE MCZab --------------------------------
(* Zab within bounds that TLC can exhaust. The servers are all alike. *)
EXTENDS Zab, TLC

Alike == Permutations(Server)
=============================================================================
