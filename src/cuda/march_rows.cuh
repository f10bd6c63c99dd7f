// What row warps of the marching kernels do: march.cuh says when.
#pragma once

#include "cuda/loaders.cuh"
#include "cuda/march_gradient.cuh"
#include "cuda/pixel_shift.cuh"
#include "cuda/shift.cuh"
#include "cuda/thread.cuh"
#include "cuda/window.cuh"

namespace fused_ssim::cuda {

// The L1 term of raw pixels: of a row and its 8 columns from `column` on, both counted as
// ValuedPixels are, which lie in `row1` and `row2` from column kStagedBefore on.
template <class Traits, class Row>
__device__ __forceinline__ float sum_of_row_distances(const ValuedPixels& valued, int row,
                                                      int column, const Row& row1, const Row& row2,
                                                      bool squares) {
  if (row < valued.first_row || row >= valued.end_row) {
    return 0.0f;
  }
  float sum = 0.0f;
#pragma unroll
  for (int first = 0; first < 8; first += Row::kAtOnce) {
    float pixels1[Row::kAtOnce], pixels2[Row::kAtOnce];
    row1.read(Traits::kStagedBefore + first, pixels1);
    row2.read(Traits::kStagedBefore + first, pixels2);
#pragma unroll
    for (int q = 0; q < Row::kAtOnce; q += 4) {
      sum +=
          sum_of_distances(make_float4(pixels1[q], pixels1[q + 1], pixels1[q + 2], pixels1[q + 3]),
                           make_float4(pixels2[q], pixels2[q + 1], pixels2[q + 2], pixels2[q + 3]),
                           valued.first_column - column - first - q,
                           valued.end_column - column - first - q, squares);
    }
  }
  return sum;
}

// What the mask hides does not count in the shift, as if it were no number.
template <class Traits>
__device__ __forceinline__ void hide_masked_sample(const StripParams& p, const MarchPiece& piece,
                                                   Samples<float>* samples) {
  const SampleArea area = SampleArea::of<Traits>(p, piece);
  const SamplePoint at = sample_point(area.top, area.bottom, area.left, area.right);
  const auto y = static_cast<int>(at.y);
  const auto x = static_cast<int>(at.x);
  const char* plane = MaskPlane::bits_of_plane(p, piece.batch, piece.channel);
  const unsigned bits = load_mask_bits(MaskPlane::bits_at(p, plane, y, x));
  if ((bits >> MaskPlane::bit_of_row(p, y) & 1u) == 0u) {
    samples->x = NAN;
  }
}

// Row warps: one piece. Returns this thread's share of the L1 term.
template <class Traits, bool kL1>
__device__ __forceinline__ double run_rows(const StripParams& p, const MarchPiece& piece,
                                           float* staged, float* maps, float* turns,
                                           PieceShift* piece_shift, MarchCounters<Traits>* counters,
                                           unsigned chunks_before) {
  static_assert(!Traits::kStagesPixels, "run_raw_rows does that");
  unsigned parity = meeting_parity<Traits>(chunks_before);
  const char* plane1 = p.img1.data + piece.batch * p.img1.batch + piece.channel * p.img1.channel;
  const char* plane2 = p.img2.data + piece.batch * p.img2.batch + piece.channel * p.img2.channel;
  const int chunks = piece_chunks<Traits>(p, piece);
  int next_y = first_staged_row<Traits>(piece);  // of the chunk to be stored next
  MarchLoader<Traits> loader(p, piece, plane1, plane2, next_y, counters, chunks_before);
  const SamplePointers pointers = shift_samples<Traits>(p, piece, plane1, plane2);
  wait_for_inputs(p);
  constexpr int kLoadedBefore = Traits::kQuads && Traits::kKeepsPixels ? 2 : 1;
#pragma unroll
  for (int i = 0; i < kLoadedBefore; ++i) {
    loader.load(p, staged + i * Traits::kSlotStride, i);
  }
  Samples<float> samples =
      pointers.template load<float, elements_of(Traits::kLoader)>(p.img1, p.img2);
  if constexpr (Traits::kNormalized) {
    hide_masked_sample<Traits>(p, piece, &samples);
  }
  const Shift<float> means = trimmed_means<Traits::kMap>(samples);
  const PixelShift shift = PixelShift::of(means.x, means.y);
  const typename Traits::Window window(p);
  if (Traits::row_thread() % (Traits::kShiftsLate ? 32 : Traits::kColumns) == 0) {
    piece_shift[Traits::row_thread() / 32] = PieceShift::of<Traits::kMap>(window, shift);
  }
  double l1 = 0.0;
  const auto store = [&](float* slot) {
    const float of_chunk = loader.template store<kL1>(p, piece, shift, next_y, slot);
    if (kL1 && !Traits::kGradient) {
      l1 += static_cast<double>(of_chunk);
    }
    next_y += Traits::kChunkRows;
  };
  // While column warps have `chunk`, row warps have the ones above and below. Before their first
  // chunk they have one below, and before that one more to stage. These steps have code of their
  // own (up to 4% faster), but not for words, whose code would be too long for the instruction
  // cache (10% slower).
  constexpr bool kStartsInLoop = !Traits::kQuads || !Traits::kKeepsPixels;
  constexpr int kFirst = !Traits::kKeepsPixels ? -1 : kStartsInLoop ? -2 : 0;
  if constexpr (!kStartsInLoop) {
    store(staged);
    meet(counters, &parity);
  }

  const int row = Traits::row_thread() % 8;
  const int group = Traits::row_thread() / 8;
  const float centre_bound =
      largest_centre<Traits>(p, piece.first_column - Traits::kMargin + 8 * group + 3);
  const int in_part = group / (Traits::kPartColumns / 8) * Traits::kPartStride +
                      group % (Traits::kPartColumns / 8) * 8;
  // Where strips are narrower than they could be, whole warps have nothing to do.
  const bool is_needed = Traits::row_thread() / 32 * 32 < needed_columns<Traits>(piece);
  const float* windows = kept(staged + row * Traits::kStagedPitch + in_part);
  float* map_rows =
      kept(maps + row * MapPlaces<Traits>::kRow + 8 * MapPlaces<Traits>::kColumn * group);
  // Staged rows of the gradient's pixels: kGradientLag rows above the partials.
  constexpr int kLagRows = Traits::kGradientLag - Traits::kChunkRows;
  const int own_row = row < kLagRows ? row + Traits::kChunkRows - kLagRows : row - kLagRows;
  const float* own =
      kept(staged + own_row * Traits::kStagedPitch + Traits::kStagedBefore + in_part);
  int own_slot = Traits::kStagedSlots + kFirst - (row < kLagRows ? 3 : 2);  // chunks above
  GradientTarget target = {nullptr, nullptr, 0, 0};
  const auto weights = plane_weights<Traits>(p, piece.batch, piece.channel);
  if constexpr (Traits::kGradient) {
    const int x = piece.first_column + 8 * group;
    target.columns = piece.end_column - x;
    // Rows come out of the chunk before.
    target.y = first_staged_row<Traits>(piece) + (kFirst - 1) * Traits::kChunkRows -
               Traits::kGradientLag + row;
    const int64_t first_y = target.y - (Traits::kQuads ? 0 : row);
    const int64_t first_x = Traits::kQuads ? x : piece.first_column + Traits::row_thread();
    target.gradient1 = p.grad1.data + piece.batch * p.grad1.batch +
                       piece.channel * p.grad1.channel + first_y * p.grad1.row +
                       first_x * p.grad1.column;
    target.gradient2 = p.grad2.data + piece.batch * p.grad2.batch +
                       piece.channel * p.grad2.channel + first_y * p.grad2.row +
                       first_x * p.grad2.column;
  }
  float* turn = turns + Traits::row_thread() / 32 * Traits::kTurnStride;
  // What target.y is below while a row that is being filtered lies in the window of a value.
  const int last_lagged_row =
      p.value_bottom + Traits::kRadius - 2 * Traits::kChunkRows - Traits::kGradientLag;

  // Rows that no window of a value reaches may be left out. With narrow quads that takes 3% longer.
  const auto filter = [&](int staged_slot, int map_slot, bool all_rows) {
    const bool leaves_out =
        Traits::kGradient && (Traits::kBoxes || !Traits::kQuads || !Traits::kKeepsPixels);
    if (is_needed && (!leaves_out || all_rows || target.y < last_lagged_row)) {
      const float* quads = windows + staged_slot * Traits::kSlotStride;
      float* to = map_rows + map_slot * MapPlaces<Traits>::kChunk;
      if constexpr (Traits::kShiftsLate) {
        using Row = StagedRow<DType::kFloat32>;
        filter_row_to_cells<Traits::kSkip, Traits::kMap>(
            window, Row{quads}, Row{quads + Traits::kImageStride}, shift, centre_bound, to);
      } else {
        filter_staged_row<Traits>(window, quads, quads + Traits::kImageStride, to);
      }
    }
  };
  MapSlot<Traits> map_slot((Traits::kHandover == Handover::kByBlock ? chunks_before : 0u) +
                           static_cast<unsigned>(2 * Traits::kMapSlots + kFirst));
  if constexpr (!kStartsInLoop) {
    filter(0, map_slot.slot, true);
    store(staged + Traits::kSlotStride);
    meet(counters, &parity);
  }
  int staged_slot =
      (Traits::kStagedSlots + kFirst + 1) % Traits::kStagedSlots;  // of the chunk below
  // The gradient of the chunk above, where there is one.
  const auto store_gradient = [&](int chunk, const auto& pixels) {
    if (Traits::kGradient && chunk > 2) {
      const float of_chunk = store_gradient_rows<Traits, kL1>(
          p, piece, shift, pixels, map_rows + map_slot.above() * MapPlaces<Traits>::kChunk, turn,
          target, weights, {plane1, plane2});
      if constexpr (kL1) {
        l1 += static_cast<double>(of_chunk);
      }
    }
  };
  // With less room there are the maps of two chunks and the pixels of one; those of the next wait in
  // registers.
#pragma unroll 1
  for (int chunk = kFirst; !Traits::kKeepsPixels; ++chunk, map_slot.advance()) {
    store_gradient(chunk, PixelsReadAgain<Traits, kL1>(p));
    if (chunk == chunks) {
      return l1;
    }
    if (chunk + 1 < chunks) {
      store(staged);
      const bool more = chunk + 2 < chunks;
      if (!Traits::kGradient && more) {
        loader.load(p, nullptr, 0);
      }
      // Partials of other warps, whose place maps take, have been read, and all pixels are there.
      meet_row_warps<Traits>();
      filter(0, map_slot.below(), false);
      if (Traits::kGradient && more) {  // into registers, as soon as they are free
        loader.load(p, nullptr, 0);
      }
    }
    meet(counters, &parity);
    if constexpr (Traits::kGradient) {
      target.template advance<Traits>(p);
    }
  }
#pragma unroll 1
  for (int chunk = kFirst;; ++chunk, map_slot.advance()) {
    const int next_slot = staged_slot + 1 == Traits::kStagedSlots ? 0 : staged_slot + 1;
    if (Traits::kQuads && chunk + 2 < chunks) {
      loader.load(p, staged + next_slot * Traits::kSlotStride, 0);
    }
    store_gradient(chunk, KeptPixels<Traits>{own + own_slot * Traits::kSlotStride});
    if (chunk == chunks) {
      break;
    }
    if ((!kStartsInLoop || chunk >= -1) && chunk + 1 < chunks) {
      filter(staged_slot, map_slot.below(), false);
      if constexpr (Traits::kHandover == Handover::kByBlock) {
        arrive(&counters->filled[0][map_slot.below()]);
      }
    }
    if (chunk + 2 < chunks) {
      store(staged + next_slot * Traits::kSlotStride);
    }
    const bool all_meet = Traits::kHandover == Handover::kMeeting || (kStartsInLoop && chunk < 0);
    uint64_t* counter = all_meet ? &counters->met : &counters->drained[0][map_slot.slot];
    arrive(counter);
    if (!Traits::kQuads && chunk + 3 < chunks) {
      loader.load(p, nullptr, 0);  // into registers, as soon as they are free
    }
    wait_long_for_phase(counter, all_meet ? parity : map_slot.parity);
    parity ^= all_meet ? 1u : 0u;
    staged_slot = next_slot;
    own_slot = own_slot + 1 == Traits::kStagedSlots ? 0 : own_slot + 1;
    if constexpr (Traits::kGradient) {
      target.template advance<Traits>(p);
    }
  }
  return l1;
}

// Row warps where raw pixels are staged: each goes on as soon as its own column warp allows it.
// Calls add_l1() with this thread's share of the L1 term.
template <class Traits, class AddL1>
__device__ __forceinline__ void run_raw_rows(const StripParams& p, const MarchPiece& piece,
                                             float* staged, float* maps, PieceShift* piece_shift,
                                             ValuedPixels* valued, MarchCounters<Traits>* counters,
                                             unsigned chunks_before, const AddL1& add_l1) {
  const char* plane1 = p.img1.data + piece.batch * p.img1.batch + piece.channel * p.img1.channel;
  const char* plane2 = p.img2.data + piece.batch * p.img2.batch + piece.channel * p.img2.channel;
  const int chunks = piece_chunks<Traits>(p, piece);
  const int first_y = first_staged_row<Traits>(piece);
  BoxLoader<Traits> loader(p, piece, plane1, plane2, first_y, counters, chunks_before);
  const SamplePointers pointers = shift_samples<Traits>(p, piece, plane1, plane2);
  wait_for_inputs(p);
  loader.load(p, staged + (chunks_before & 1u) * Traits::kSlotStride, 0);
  Shift<float> means = trimmed_means<Traits::kMap>(
      pointers.template load<float, elements_of(Traits::kLoader)>(p.img1, p.img2));
  if (Traits::kElement == 1) {  // then kOffset and the shift may be subtracted in one
    means = {rintf(means.x), rintf(means.y)};
  }
  const PixelShift shift = PixelShift::of(means.x, means.y);
  const typename Traits::Window window(p);
  const int thread = Traits::row_thread();
  const int warp = thread / 32;
  if (thread % 32 == 0) {
    piece_shift[warp] = PieceShift::of<Traits::kMap>(window, shift);
    valued[warp] = ValuedPixels::of(p, piece, first_y);
  }
  __syncwarp();
  const int row = thread % 8;
  const int group = thread / 8;
  static_assert(Traits::kParts == 1, "else groups lie in parts");
  const int first = 8 * group;
  const float centre_bound =
      largest_centre<Traits>(p, piece.first_column - Traits::kMargin + first + 3);
  float* map_rows = kept(maps + row * MapPlaces<Traits>::kRow + first * MapPlaces<Traits>::kColumn);
  // Code of its own for each type, and of values for the L1 term: that asks fewer questions on the
  // way.
  const auto run = [&](auto dtype, auto with_l1) {
    constexpr DType kDType = decltype(dtype)::value;
    using Row = StagedRow<kDType>;
    const float* windows =
        kept(staged + row * Traits::kStagedPitch + (first + Traits::kExtra) * Traits::kElement / 4);
    const PixelShift staged_shift = {shift.x + Row::kOffset * kPixelScale,
                                     shift.y + Row::kOffset * kPixelScale};
    MapSlot<Traits> map_slot(chunks_before);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const unsigned staged_slot = loader.count & 1u;
      if (chunk + 1 < chunks) {
        loader.load(p, staged + (staged_slot ^ 1u) * Traits::kSlotStride, 1);
      }
      loader.wait();
      wait_for_phase(&counters->drained[warp][map_slot.slot], map_slot.parity ^ 1u);
      const float* quads = windows + staged_slot * Traits::kSlotStride;
      const Row row1 = {quads};
      const Row row2 = {quads + Traits::kImageStride};
      filter_row_to_cells<Traits::kSkip, Traits::kMap>(
          window, row1, row2, staged_shift, centre_bound,
          map_rows + map_slot.slot * MapPlaces<Traits>::kChunk);
      if (decltype(with_l1)::value && p.l1) {
        add_l1(sum_of_row_distances<Traits>(valued[warp], chunk * Traits::kChunkRows + row, first,
                                            row1, row2, Traits::kMse && p.squares));
      }
      arrive(&counters->filled[warp][map_slot.slot]);
      arrive(&counters->emptied[staged_slot]);
      map_slot.advance();
    }
  };
  const auto run_type = [&](auto dtype) {
    if (Traits::kMap || __builtin_expect(p.l1, false)) {
      run(dtype, std::true_type{});
    } else {
      run(dtype, std::false_type{});
    }
  };
  if constexpr (Traits::kElement == 4) {
    run_type(std::integral_constant<DType, DType::kFloat32>{});
  } else if constexpr (Traits::kElement == 1) {
    run_type(std::integral_constant<DType, DType::kUInt8>{});
  } else if (p.img1.dtype == DType::kFloat16) {
    run_type(std::integral_constant<DType, DType::kFloat16>{});
  } else {
    run_type(std::integral_constant<DType, DType::kBFloat16>{});
  }
}

}  // namespace fused_ssim::cuda
