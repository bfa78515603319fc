// Defects on purpose, for the proof that the tests find such. Where a defect could be,
// the code asks  mutant(defect::its_name) ? wrong : right.  In every build but one the answer is false at compile time
// and nothing is left of it; in the binary of tests/mutations, compiled with SMALTI_MUTATIONS (whose bodies live in a
// namespace of their own: core/version.hpp), it is a comparison with the defect that is at work.
// Never in core or policy: the defects of a policy are other policies, in the test.
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE {

enum class defect : int {
  // the host machine: operands and tiles from memory
  address_past_last_row,      //!< the row behind the last one counts as inside
  address_past_last_column,   //!< every column counts as inside
  inside_counts_one_more,     //!< a ragged tile has one element more than the matrix
  left_loses_last_row,        //!< the last row of a filled left operand does not count as live
  right_rows_swapped,         //!< neighbouring rows of a right operand change places in their word
  right_columns_read_past_k,  //!< columns of a right operand are read behind the last k
  tile_tail_not_zero,         //!< what lies behind a row in memory comes into the tile
  put_one_more,               //!< a masked store writes one element too many
  fetch_leaves_tail,          //!< the rest of an operand's row is not cleared
  convert_drops_remainder,    //!< elements behind the last whole pack are not converted

  // conversion
  ties_away_from_zero,  //!< ties are rounded away from zero
  overflow_wraps,       //!< a value above the range of a narrow float keeps its low bits
  nan_rounds_away,      //!< a NaN with a small payload rounds to infinity

  // the words of the host machine
  steps_stop_early,             //!< the last step of a loop is lost
  left_used_past_k,             //!< a ragged left operand is used where it lies, with what lies behind it
  left_reads_all_rows,          //!< a product reads rows of the left operand that are not there
  gather_one_row_late,          //!< a gather takes the row behind the one it is told
  gather_first_columns,         //!< a gather of rows forgets its column tile
  gather_turned_first_columns,  //!< a gather of columns forgets its tile of k
  tile_turn_forgotten,          //!< a transposed load of a tile is a plain one
  store_one_row_late,           //!< a tile is stored one row too low
  store_turned_unmasked,        //!< a transposed store writes behind the last column
  store_column_of_first,        //!< store_column forgets which row of the matrix it writes
  store_rows_writes_skipped,    //!< rows that a scatter skips go to row 0
  scatter_ignores_keep,         //!< a scatter writes elements that are not kept
  accumulate_overwrites,        //!< an atomic add forgets what was there
  arrive_returns_new_value,     //!< arrive returns the value after the addition
  arrive_without_order,         //!< arrive does not order the memory of the blocks
  fill_stops_halfway,           //!< fill leaves the second half of a tile
  product_starts_anew,          //!< a product forgets what the accumulator held
  product_ignores_stride,       //!< a left operand is taken to be dense
  product_loses_odd_k,          //!< the last k are lost that do not fill a word
  multiply_keeps_sums,          //!< a product that begins anew adds to what the accumulator held
  as_left_not_rounded,          //!< as_left keeps the bits that the operand's type does not have
  map_loses_last_pack,          //!< map stops before the last columns
  scan_is_exclusive,            //!< row_scan leaves out the element itself
  unpack_one_word_late,         //!< unpack begins at the second word of a group
  panel_key_without_matrix,     //!< panels of different matrices are taken for each other
  panel_key_without_step,       //!< panels of different tiles of rows are taken for each other
  panel_key_without_strip,      //!< panels of different tiles of columns are taken for each other
  panel_key_without_form,       //!< a panel of the transposed matrix is taken for one of the matrix
  reduction_skips_a_pack,       //!< a reduction of rows leaves out the second pack
  reduction_loses_last_row,     //!< a reduction of columns stops before the last row
  map_repeats_first_row,        //!< map gives the first value of a column to every row
  column_index_restarts,        //!< column_index begins again in every pack

  // panels that are kept
  panel_found_after_eviction,   //!< a panel is found that was written over
  panel_too_large_accepted,     //!< a panel larger than the store is kept in it
  panel_runs_off_the_end,       //!< a panel does not begin again at the start of the store
  panel_overwrites_one_in_use,  //!< a new panel is written over one in use

  // grids
  run_leaves_gaps,              //!< a thread's next blocks begin one too late
  run_past_the_grid,            //!< the last blocks of a thread reach past the grid
  shuffle_repeats_blocks,       //!< a shuffle runs some blocks twice and others never
  run_ignores_the_shuffle,      //!< blocks run in their order whatever the context says
  run_divides_by_wrong_extent,  //!< a block's x is taken modulo the grid's y
  clear_one_short,              //!< the last counter is not cleared

  // the dense GEMM
  grid_loses_ragged_rows,    //!< there is no block for the last, ragged rows
  dense_loses_tail_of_k,     //!< the last, ragged step of k is not computed
  last_group_is_whole,       //!< the last group of rows of tiles is numbered as if it were a whole one
  worker_repeats_its_tile,   //!< a persistent block makes its first tile again and again
  low_part_forgotten,        //!< tf32x3 multiplies the low part of one operand only
  reduction_takes_padding,   //!< rows that are not in the result count in its reductions
  reduction_of_first_matrix, //!< the reductions of every matrix of a batch go to the first
  reduction_keeps_last_tile, //!< the parts of all tiles of a reduction go to one place
  split_starts_late,         //!< a split leaves out its first step
  split_overlaps_next,       //!< a split computes the first step of the next one too
  accumulator_not_cleared,   //!< the sums begin with whatever the accumulator holds
  operand_of_wrong_tile,     //!< with B on the left, the tile of A is chosen by the column of C
  a_of_first_matrix,         //!< a batch multiplies its first A only
  b_of_first_matrix,         //!< a batch multiplies its first B only
  b_tile_stale,              //!< B stays at its first step of k
  partial_overwritten,       //!< all splits leave their sums in one place
  first_to_arrive_combines,  //!< the first split to arrive adds up what others have not stored
  partial_lost,              //!< a split of a gated product does not store its second sums
  up_sums_taken_from_gate,   //!< the second sums of a gated product are gathered from the first
  tiles_share_a_number,      //!< the tiles of a row of C leave their sums in one place
  partials_overlap,          //!< the sums of neighbouring splits overlap
  sums_in_order_of_arrival,  //!< the sums are added beginning with the last block's own: the bits depend on who was last
  gather_keeps_own_sum,      //!< the last block adds all sums to its own
  epilogue_row_in_tile,      //!< an epilogue is told the row in the tile
  epilogue_column_in_tile,   //!< an epilogue is told the column in the tile
  gate_and_up_swapped,       //!< the halves of a gated product change places
  c_of_first_matrix,         //!< every matrix of a batch is stored over the first

  // the weight-only GEMM
  last_group_lost,        //!< the last group of weights is not multiplied
  group_sum_not_cleared,  //!< a group begins with the sums of the one before
  scale_of_first_group,   //!< every group takes the scales of the first
  planes_reversed,        //!< the planes of a group meet the quarters of x in reverse

  // attention
  max_starts_at_zero,           //!< the running maximum begins with 0: rows of very negative scores vanish
  last_keys_dropped,            //!< the last, ragged tile of keys is not seen
  partial_tile_taken_as_whole,  //!< a tile of which some keys are hidden is not masked
  value_scale_forgotten,        //!< the scale of quantized values is not applied
  lse_without_sum,              //!< the log-sum-exp is the maximum alone
  key_of_wrong_head,            //!< query heads take turns at the key heads instead of sharing one in groups
  mask_row_in_tile,             //!< a mask is told the query's row in its tile
  tail_not_masked,              //!< keys past the length are seen
  key_scale_forgotten,          //!< the scale of quantized keys is not applied
  sum_not_rescaled,             //!< a new maximum leaves the running sum as it is
  output_not_rescaled,          //!< a new maximum leaves the running output as it is
  max_not_kept,                 //!< the running maximum is never updated
  merge_without_weights,        //!< the sums of split keys are added without regard to their maxima
  first_split_merges,           //!< the first part of split keys to arrive merges what others have not stored
  key_turned_from_tile,         //!< keys that are turned when they are read count from their tile

  // attention: gradients
  gradient_without_delta,         //!< the row's delta is left out of the gradient of a logit
  lse_gradient_forgotten,         //!< a gradient of the log-sum-exp is taken for zero
  row_without_keys_weighs,        //!< a row without keys keeps -infinity as its log-sum-exp
  padding_rows_weigh,             //!< rows past the last query have a log-sum-exp of 0
  numbers_of_wrong_head,          //!< the numbers of head 0 serve every head
  numbers_of_runs_overlap,        //!< the numbers of ragged sequences lie behind one another without their padding
  first_head_of_group_only,       //!< dk and dv hear of one query head of their group
  dq_not_scaled,                  //!< dq is not multiplied with the scale
  dk_not_scaled,                  //!< dk is not multiplied with the scale
  partial_queries_taken_as_whole, //!< a tile of queries that the mask cuts is taken as whole
  last_queries_dropped,           //!< the last ragged tile of queries is lost
  dq_part_of_first,               //!< every part of the channels of dq is the first
  sink_gradient_of_first_run,     //!< the gradient of a sink hears of the first sequence only
  bias_gradient_not_shared,       //!< a shared bias hears of the first sequence and head only
  pointwise_gradient_not_masked,  //!< masked keys have a gradient where weights are pointwise
  backward_scale_not_checked,     //!< any scale is accepted

  // pages
  first_page_for_all_keys,  //!< every tile of keys is the first page
  clamp_one_past,           //!< rows past the length stand on the first free slot
  slot_in_page_forgotten,   //!< every token stands in the first slot of its page
  last_page_out_of_table,   //!< a page that is not full is not looked up

  // gemm::dense: workspace and launch
  epilogue_not_checked,            //!< what an epilogue refuses is accepted
  workspace_not_checked,           //!< a workspace that does not fit is accepted
  no_splits_accepted,              //!< splits below 1 are accepted
  splits_without_option_accepted,  //!< splits are accepted where the op cannot split
  too_many_splits_accepted,        //!< any number of splits is accepted
  workspace_for_one_split,         //!< the workspace holds the sums of one split
  counter_without_room,            //!< the workspace lacks room for the last counter
  counters_not_cleared,            //!< arrivals are counted from whatever the workspace holds
  up_begins_at_gate,               //!< both halves of a gated product are the first
  c_steps_as_a,                    //!< the matrices of C are as far apart as those of A
  split_rounds_down,               //!< the steps that do not divide by the splits are lost

  // gemm::dense: comparisons that its check lacks
  negative_extent_accepted,          //!< a negative extent is accepted
  null_accepted,                     //!< a null pointer is accepted
  narrow_stride_accepted,            //!< a stride below the width is accepted
  odd_address_accepted,              //!< an address that is no multiple of the element is accepted
  unaligned_base_accepted,           //!< a base that is no multiple of 16 bytes is accepted
  unaligned_stride_accepted,         //!< a stride that is no multiple of 16 bytes is accepted
  unaligned_width_accepted,          //!< a width that is no multiple of 16 bytes is accepted
  unaligned_batch_accepted,          //!< a batch distance that is no multiple of 16 bytes is accepted
  negative_batch_distance_accepted,  //!< a negative batch distance is accepted
  touching_taken_for_overlap,        //!< memory that begins where other memory ends counts as overlapping it
  later_matrix_not_looked_at,        //!< only the first matrix of a batch is looked at for overlaps
  negative_count_accepted,           //!< a negative number of matrices is accepted
  wrong_rows_accepted,               //!< C may have other rows than A
  wrong_depth_accepted,              //!< B may have another K than A
  wrong_pairs_accepted,              //!< a gated epilogue takes any width of B
  wrong_width_accepted,              //!< C may have other columns than B has outputs
  overlapping_batch_accepted,        //!< the matrices of C may overlap
  overlap_with_a_accepted,           //!< C may lie over A
  overlap_with_b_accepted,           //!< C may lie over B

  // primitives
  minus_zero_comes_later,      //!< -0 and +0 are not equal
  nan_keeps_its_bits,          //!< NaN is ordered by its bits
  cut_takes_one_tie_more,      //!< one tie more is selected, and the last better element is not
  tie_lost,                    //!< the last of the selected ties is not
  radix_forgets_better_bins,   //!< a histogram counts down from k anew in every bin
  too_few_gathered_accepted,   //!< a sample that found too few elements is believed
  selection_not_sorted,        //!< best_first leaves the elements in the order of the row
  short_row_not_filled,        //!< the places that a short row leaves empty are not filled
  scan_kinds_swapped,          //!< inclusive sums are exclusive and the other way round
  scan_forgets_carry,          //!< a chunk forgets all but the one before it
  scan_carry_includes_itself,  //!< with threads, a chunk begins with its own sum
  sort_skips_top_byte,         //!< keys are not sorted by their first byte
  sort_returns_ranks,          //!< the permutation of a sort is the identity
  permute_moves_skipped,       //!< negative indices name rows before the first
  permute_loses_last_column,   //!< the last column is not moved
  pieces_visited_twice,        //!< a shuffle visits some pieces twice and others never
  primitive_overlap_accepted,  //!< a primitive may write over what it reads
  any_k_accepted,              //!< any k is accepted
  norm_without_epsilon,        //!< a normalization adds no epsilon to the mean square
  norm_gain_of_first_columns,  //!< every tile of a row is scaled by the first columns' gains
  norm_stream_not_added,       //!< the residual stream is replaced by x, not added to
  rotary_position_of_first,    //!< every block turns by the first block's positions
  rotary_sine_not_negated,     //!< the first of a pair adds the second's share instead of subtracting it
  rotary_head_of_first,        //!< every head turns the first head's columns
  sample_ignores_temperature,  //!< logits are not divided by the temperature
  sample_repeats_noise,        //!< every token of a row gets the same four random numbers
  sample_takes_last_of_equals, //!< of equal greatest logits the last is taken
  sample_top_k_one_more,       //!< one more than top_k is kept
  sample_top_p_of_whole,       //!< top_p is a share of the greatest weight, not of all
  sample_min_p_ignored,        //!< min_p removes nothing

  // quantization of activations
  quantize_first_group,        //!< a block quantizes its first group again and again
  quantize_reach_of_last,      //!< a row's scale comes from its last tile
  quantize_sums_without_scale, //!< sums of codes are not scaled
  hadamard_first_chunk,        //!< a transform reads its block's first chunk for every one
  hadamard_not_normalized,     //!< a transform is not divided by the root of its size

  // routing
  route_key_is_the_weight,     //!< the weight is made of the biased key
  route_group_by_greatest,     //!< groups are compared by one key, not the sum of two
  route_masks_with_zero,       //!< groups that are out get the key 0
  route_rank_from_first_chunk, //!< slots of later chunks are counted from 0
  route_drops_one_too_many,    //!< a full expert has a slot less than its capacity

  // experts and adapters
  plan_begins_at_first_row,    //!< every group's tiles begin at the first row of all
  plan_last_tile_whole,        //!< the last tile of a group has rows of the next one
  paged_list_of_first_weight,  //!< every weight's rows are those of the first
  paged_shard_of_first,        //!< every shard of a row is its first
  paged_rank_not_cut,          //!< columns past a weight's rank are not zero
  paged_scale_forgotten,       //!< what a weight gives is not scaled
  group_ignores_its_name,      //!< a group takes the weight of its number, not of its name
  dispatch_keeps_padding,      //!< padding rows are not zeros
  combine_weighs_as_first_choice,  //!< every choice has the first one's weight
  combine_counts_dropped,      //!< a dropped choice counts as row 0
  gate_gradient_without_up,    //!< the gradient of a gate does not hear of the other half
  sum_by_id_keeps_last,        //!< rows of one id are not added: the last one stays
  mix_head_of_first,           //!< every head is mixed as the first
  logit_gradient_without_mean, //!< a skill's logit does not hear that the shares of all are divided by their sum
  left_out_segment_counts,     //!< a segment without an adapter has its rows in the gradients
  sparse_entry_of_next_output, //!< an entry of a sparse update goes to the output behind its own

  // collectives, and attention over many ranks
  wire_truncates,              //!< codes on the wire are rounded down
  single_repetition_loses_offset,  //!< a strided block repeated once forgets where
  merge_sides_swapped,         //!< the operands of a merge change sides
  owner_keeps_its_sum,         //!< the owner of a result does not take what the others decode
  own_items_make_no_trip,      //!< the owner's own items are not rounded as everyone else's
  whole_blocks_travel,         //!< a block keeps the rows that nobody further along can see
  alone_merges_itself,         //!< one rank takes a yield of its own block

  count,
  none = -1
};

#if defined(SMALTI_MUTATIONS)
inline defect defect_at_work = defect::none;

SMALTI_HD constexpr bool mutant(defect d) {
  if (__builtin_is_constant_evaluated()) return false;
  return d == defect_at_work;
}
#else
//! Whether this defect is at work.
SMALTI_HD constexpr bool mutant(defect) { return false; }
#endif

}  // namespace smalti::inline SMALTI_CODE
