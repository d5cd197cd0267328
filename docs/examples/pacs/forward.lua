-- Sends every radiograph that the archive stores to the node; reports and captures stay.
function OnStoredInstance(instance, tags, metadata, origin)
   if tags.Modality == 'DX' or tags.Modality == 'CR' then
      SendToModality(instance, 'node')
   end
end
